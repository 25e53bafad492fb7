"""Photographs that come with scikit-image, so that a demo needs no download."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import read_image, write_image
from sls_deploy.errors import SlsError
from sls_deploy.files import disk_errors

TRAIN = (
    "astronaut.png", "motorcycle_left.png", "camera.png", "coins.png", "grass.png", "brick.png",
    "gravel.png",
)  # fmt: skip
"""To search on: in colour first, then grey."""

VALIDATION = ("chelsea.png", "coffee.png", "rocket.jpg")
"""To validate on: natural photographs in colour that `TRAIN` does not show."""


def sample_photos() -> dict[str, Picture]:
    """All of `TRAIN`, then all of `VALIDATION`, uint8 HWC RGB by name without suffix.

    Raises:
        SlsError: the installed scikit-image does not hold one of them.
    """
    return {Path(name).stem: _read(name) for name in (*TRAIN, *VALIDATION)}


def export_samples(folder: Path, names: Iterable[str]) -> list[Path]:
    """Write photographs as PNG into a folder, which is made; returns their paths.

    Args:
        folder: where to write.
        names: with or without suffix, from `TRAIN` and `VALIDATION`.

    Raises:
        SlsError: a name is unknown (nothing is written then), or the disk refuses.
    """
    known = {Path(name).stem: name for name in (*TRAIN, *VALIDATION)}
    stems = [Path(name).stem for name in names]
    for stem in stems:
        if stem not in known:
            raise SlsError("no such sample", stem, f"There are {', '.join(known)}.")
    return [write_image(folder / f"{stem}.png", _read(known[stem])) for stem in stems]


def copy_samples(folder: Path) -> None:
    """Put all photographs into a folder that is there, under the names of `export_samples`.

    Files are copied as they stand, a JPEG too: what reads pictures looks at their content, and to
    encode them all takes two seconds.

    Raises:
        SlsError: the installed scikit-image does not hold one of them, or the disk refuses.
    """
    for name in (*TRAIN, *VALIDATION):
        source = _path(name)
        if not source.is_file():
            raise SlsError("no such file", str(source), "Install sls-deploy again with pip.")
        target = folder / f"{Path(name).stem}.png"
        with disk_errors(target):
            copyfile(source, target)


def _read(name: str) -> Picture:
    return read_image(_path(name))


def _path(name: str) -> Path:
    # The files are opened here: skimage.data would load a downloader for the ones it lacks.
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SlsError("is not installed", "scikit-image", "Install sls-deploy again with pip.")
    return Path(package.origin).parent / "data" / name
