"""How the input of a network is made from the truth, or where it is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np

from sls_deploy.config import DataConfig
from sls_deploy.config import Degradation as Kind
from sls_deploy.data.bicubic import Picture, crop_to_multiple, downscale
from sls_deploy.data.given import Given
from sls_deploy.data.images import list_images, read_image
from sls_deploy.data.motion_blur import MotionBlur, named_generator
from sls_deploy.data.synthesis import Synthesis
from sls_deploy.errors import SlsError

SHARP = ("sharp", "target", "gt")
"""Folders of the truth of pairs, in lower or upper case."""
DEGRADED = ("blur", "input", "lq")
"""Folders of their inputs, in lower or upper case."""

_WALK = 4
"""Most truth pixels that the camera moves from one frame to the next, along each axis."""


class Source(Protocol):
    """Where the inputs of a network come from; it gives the same input every time."""

    @property
    def scale(self) -> int:
        """Truth pixels for one input pixel, along each side."""

    @property
    def frames(self) -> int:
        """Pictures in an input."""

    @property
    def note(self) -> str:
        """How the input comes about, with all settings, in a sentence without a full stop."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that a pair is made from, the truth first if known; none of them is read.

        Raises:
            SlsError: one is missing.
        """

    def pair(self, path: Path) -> tuple[Picture, Picture | None]:
        """Input and, if there is one, truth of a file, uint8 HWC.

        The input's channels are RGB times the frames; the truth is cut to a multiple of the scale.

        Raises:
            SlsError: a file is missing, cannot be read, or does not fit the other.
        """


class Degradation(Source, Protocol):
    """A source that knows the truth: it turns a truth file into a pair."""

    def pair(self, path: Path) -> tuple[Picture, Picture]:
        """Input and truth of a truth file; see `Source.pair`."""


@dataclass(frozen=True)
class Bicubic(Synthesis):
    """Shrinks by MATLAB's bicubic; scale 1 gives the truth as its own input."""

    scale: int
    """Truth pixels for one input pixel."""

    @property
    def note(self) -> str:
        """How the input comes about."""
        if self.scale == 1:
            return "Input is the truth itself"
        return "Input made by MATLAB's bicubic from the truth, cut to a multiple of the scale"

    def degrade(self, truth: Picture, name: str) -> Picture:  # noqa: ARG002 - nothing is random
        """The shrunk picture."""
        return downscale(truth, self.scale)


class Pairs:
    """Inputs that lie beside the truth.

    Two files make a pair if their paths differ in one folder only, which is `sharp`, `target` or
    `gt` for the truth and `blur`, `input` or `lq` for its input, and perhaps in the suffix. Where a
    path holds several such folders, the innermost counts. Files in none of them are left out.

    Args:
        folder: holds the folders of truth and inputs, at any depth.
        paths: all pictures in it.
        scale: truth pixels for one input pixel.
    """

    frames = 1
    note = "Input read from the degraded file beside the truth"

    def __init__(self, folder: Path, paths: Sequence[Path], scale: int) -> None:
        self.scale = scale
        truths, inputs = _by_place(folder, paths, SHARP), _by_place(folder, paths, DEGRADED)
        self._inputs = {
            path: inputs.get(key, []) for key, there in truths.items() for path in there
        }
        lone = {path for key, there in inputs.items() if key not in truths for path in there}
        self.truths = sorted(self._inputs)
        """Truth files, with an input or without."""
        self.paths = sorted({*self._inputs, *lone})
        """Truth files and the inputs that no truth belongs to."""
        self.mixed = bool(truths and inputs)
        """Whether there are both truth and inputs, though they may not belong together."""

    def __len__(self) -> int:
        return sum(bool(found) for found in self._inputs.values())

    def files(self, path: Path) -> tuple[Path, ...]:
        """A truth file and its input.

        Raises:
            SlsError: it has no input, or several, or is itself an input without truth.
        """
        if path not in self._inputs:
            raise SlsError("has no sharp partner", str(path), "Add it, or leave this file out.")
        found = self._inputs[path]
        if not found:
            raise SlsError("has no degraded partner", str(path), "Add it, or leave this file out.")
        if len(found) > 1:
            what = f"has several degraded partners, {found[0]} and {found[1]}"
            raise SlsError(what, str(path), "Leave one of them out.")
        return path, found[0]

    def pair(self, path: Path) -> tuple[Picture, Picture]:
        """Input and truth of a truth file, uint8 HWC RGB.

        Raises:
            SlsError: a file has no partner, cannot be read, or is not of the partner's size.
        """
        _, partner = self.files(path)
        truth, degraded = read_image(path), read_image(partner)
        cut = crop_to_multiple(truth, self.scale)
        (height, width), (rows, columns) = truth.shape[:2], degraded.shape[:2]
        if (rows * self.scale, columns * self.scale) != cut.shape[:2]:
            what = f"is {columns}x{rows}, its truth {path} {width}x{height}"
            wanted = f"{cut.shape[1] // self.scale}x{cut.shape[0] // self.scale}"
            raise SlsError(what, str(partner), f"At scale {self.scale} it must be {wanted}.")
        return degraded, cut


class Frames:
    """Several pictures of a shaken camera as one input, for networks that restore video.

    The truth's own input is the middle one. The others are made from the truth shifted by whole
    pixels, up to 4 more from each frame to the next; the borders are repeated.

    Args:
        inner: makes the input of each frame.
        count: frames in an input, an odd number.
        seed: 0 or more; another one gives another way of the camera.

    Raises:
        SlsError: `inner` reads pairs, which have no other frames.
    """

    def __init__(self, inner: Synthesis | Pairs, count: int, seed: int = 0) -> None:
        if isinstance(inner, Pairs):
            what = f"pairs hold one picture each, and this network takes {count} at once"
            fix = "Set it to motion-blur or bicubic, which make them from the truth."
            raise SlsError(what, "data.degradation", fix)
        self.inner, self.scale, self.frames, self.seed = inner, inner.scale, count, seed

    @property
    def note(self) -> str:
        """How the input comes about."""
        return (
            f"{self.inner.note}; {self.frames} frames, those beside the middle one from the truth "
            f"shifted by up to {_WALK} pixels from each to the next, seed {self.seed}"
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that a pair is made from."""
        return self.inner.files(path)

    def pair(self, path: Path) -> tuple[Picture, Picture]:
        """Input, height x width x 3 * frames, and truth of a truth file, uint8.

        Raises:
            SlsError: the file cannot be read as a picture.
        """
        middle, truth = self.inner.pair(path)
        inputs = [
            self.inner.degrade(_shifted(truth, down, right), f"{path.name}#{number}")
            if number
            else middle
            for number, (down, right) in self._walk(path.name)
        ]
        return np.concatenate(inputs, axis=2), truth

    def _walk(self, name: str) -> list[tuple[int, tuple[int, int]]]:
        """Number of each frame, 0 for the middle one, and where the camera is then."""
        half = self.frames // 2
        random = named_generator(f"{name}#walk", self.seed)
        after, before = random.integers(-_WALK, _WALK + 1, (2, half, 2)).cumsum(axis=1).tolist()
        places = [*reversed(before), (0, 0), *after]
        return [(number - half, (down, right)) for number, (down, right) in enumerate(places)]


@overload
def choose_degradation(
    config: DataConfig, folder: Path, scale: int, frames: int = 1, kind: Kind | None = None
) -> tuple[Degradation, list[Path]]: ...


@overload
def choose_degradation(
    config: DataConfig, folder: Path, scale: int, frames: int, kind: Kind | Literal["none"]
) -> tuple[Source, list[Path]]: ...


def choose_degradation(
    config: DataConfig,
    folder: Path,
    scale: int,
    frames: int = 1,
    kind: Kind | Literal["none"] | None = None,
) -> tuple[Source, list[Path]]:
    """How the inputs for a folder come about, and its truth files; with 'none' its pictures.

    'auto' takes pairs where the folder has both truth and inputs (see `Pairs`), else bicubic for a
    scale above 1, else motion blur. The files of pairs include those that lack their partner, so
    that whoever takes them reports them; the other degradations leave the inputs of pairs out.

    Args:
        config: the degradation and its settings.
        folder: pictures, also in folders below it.
        scale: truth pixels for one input pixel.
        frames: pictures that the network takes at once.
        kind: the degradation, in place of that of the settings; 'none' if the pictures are inputs.

    Raises:
        SlsError: no such folder, no pictures in it, no pairs where they are asked for, or pairs
            for several frames.
    """
    paths = list_images(folder)
    kind = kind or config.degradation
    if kind == "none":
        return Given(scale, frames), paths
    pairs = Pairs(folder, paths, scale)
    if kind == "auto":
        kind = "pairs" if pairs.mixed else "bicubic" if scale > 1 else "motion-blur"
    chosen: Synthesis | Pairs
    if kind == "pairs":
        if not pairs:
            fix = (
                f"Put the truth below a folder {', '.join(SHARP)} and its inputs, named alike, "
                f"below {', '.join(DEGRADED)}, or set data.degradation to another."
            )
            raise SlsError("holds no pairs", str(folder), fix)
        chosen, paths = pairs, pairs.paths
    else:
        paths = pairs.truths if pairs.mixed else paths
        chosen = Bicubic(scale)
        if kind == "motion-blur":
            chosen = MotionBlur(
                scale,
                config.blur_length,
                config.blur_varying,
                config.blur_noise,
                config.blur_shake,
                config.blur_blend,
            )
    return (Frames(chosen, frames) if frames > 1 else chosen), paths


def _by_place(
    folder: Path, paths: Sequence[Path], names: tuple[str, ...]
) -> dict[tuple[str, ...], list[Path]]:
    """Files whose innermost folder of a pair has one of the names, by what partners share."""
    found: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        *above, _ = path.relative_to(folder).parts
        depths = [k for k, part in enumerate(above) if part.lower() in SHARP + DEGRADED]
        if depths and above[depths[-1]].lower() in names:
            above[depths[-1]] = ""
            found.setdefault((*above, path.stem), []).append(path)
    return found


def _shifted(image: Picture, down: int, right: int) -> Picture:
    """What a camera sees that much further down and right, the borders repeated."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return image[rows[:, None], columns]
