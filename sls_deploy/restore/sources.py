"""Which files are restored, and where the results go."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sls_deploy.errors import SlsError
from sls_deploy.pictures.formats import FORMATS, PICTURE_SUFFIXES, FormatName
from sls_deploy.video.formats import VIDEO_SUFFIXES, Codec, video_suffix

LISTED = "-"
"""Input that stands for the paths on standard input."""
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Job:
    """One file that becomes another."""

    source: Path
    """The file to restore."""
    target: Path
    """The file to write."""
    kind: Literal["picture", "video"]
    """Which of the two both are."""


@dataclass(frozen=True)
class _Found:
    """A file, and what its result is called below the output folder."""

    source: Path
    """The file."""
    below: Path
    """Relative path, still with the source's name."""


def find_jobs(
    inputs: Sequence[str],
    out: Path,
    form: str,
    listed: Iterable[str] = (),
    codec: Codec = "h264",
) -> list[Job]:
    """The files that inputs stand for, each once, in the order of the inputs and sorted in each.

    A file's result stands in `out` itself. A folder is searched with those below it (hidden ones
    and links to folders left out) for names of pictures and video, and a pattern such as
    'photos/**/*.png' likewise below its part without wildcards; their structure is kept. A file
    that is named itself is taken whatever its name, and a path that exists is no pattern.

    Args:
        inputs: files, folders, patterns, or '-' for `listed`.
        out: folder for the results; files in it are never inputs.
        form: format of restored pictures: 'png', 'jpeg', 'webp', 'tiff', or 'keep' for that of
            the source. A name that tells no format gets '.png' at its end.
        listed: paths of files or folders, one a line; blank lines are skipped.
        codec: of restored video, which not every container can hold.

    Raises:
        SlsError: an input that does not exist, that lies in `out` or that holds nothing to
            restore, a folder that cannot be read, or two inputs with one result.
    """
    if not inputs:
        raise SlsError("no inputs", fix="Name files, folders or patterns, or - for a list.")
    jobs: dict[Path, Job] = {}
    for found in _all_found(inputs, out, listed):
        job = _job(found, out, form, codec)
        other = jobs.setdefault(job.target, job)
        if _real(other.source) != _real(job.source):
            what = f"would be written from two inputs, {other.source} and {job.source}"
            fix = (
                "Name the folder that holds both, so that its structure is kept, or restore them "
                "into two folders."
            )
            raise SlsError(what, str(job.target), fix)
    return list(jobs.values())


def _all_found(inputs: Sequence[str], out: Path, listed: Iterable[str]) -> Iterator[_Found]:
    for text in inputs:
        if text == LISTED:
            lines = [line.rstrip("\r\n") for line in listed]
            named = [line for line in lines if line.strip()]
            if not named:
                raise SlsError("holds no paths", "standard input", "Give one path a line.")
            for line in named:
                yield from _of_path(Path(line), out)
        elif not text:
            raise SlsError("an input without a name", fix="Name files, folders or patterns.")
        elif _MAGIC.search(text) and not os.path.lexists(text):
            yield from _of_pattern(text, out)
        else:
            yield from _of_path(Path(text), out)


def _of_path(path: Path, out: Path) -> Iterator[_Found]:
    if not path.exists():
        raise SlsError("no such file or folder", str(path))
    if _inside(path, out):
        fix = "Name another folder with --out, or other inputs."
        raise SlsError(f"lies in the folder for results, {out}", str(path), fix)
    if not path.is_dir():
        yield _Found(path, Path(path.name))
        return
    files = [file for file in _walk(path) if _known(file) and not _inside(file, out)]
    if not files:
        raise _nothing("holds no pictures or video", str(path))
    for file in sorted(files):
        yield _Found(file, file.relative_to(path))


def _of_pattern(text: str, out: Path) -> Iterator[_Found]:
    parts = Path(text).parts
    first = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    base, pattern = Path(*parts[:first]), str(Path(*parts[first:]))
    hidden_too = any(part.startswith(".") for part in parts[first:])
    try:
        # pathlib's ** does not follow links, so that loops of them do no harm.
        files = [
            file
            for file in base.glob(pattern)
            if _known(file)
            and (hidden_too or not _hidden(file.relative_to(base)))
            and not _inside(file, out)
            and file.is_file()
        ]
    except (OSError, ValueError) as error:
        raise SlsError(f"cannot be searched ({error})", text) from None
    if not files:
        raise _nothing("matches no pictures or video", text)
    for file in sorted(files):
        yield _Found(file, file.relative_to(base))


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise SlsError(f"cannot be read ({error.strerror})", str(error.filename)) from None

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _job(found: _Found, out: Path, form: str, codec: Codec) -> Job:
    suffix = found.source.suffix.lower()
    target = out / found.below
    if suffix in VIDEO_SUFFIXES:
        kind: Literal["picture", "video"] = "video"
        own = video_suffix(found.source, codec)
        if own != suffix:
            target = target.with_suffix(own)
    else:
        kind = "picture"
        target = _picture_target(target, form)
    if _real(target) == _real(found.source):
        fix = "Name another folder with --out."
        raise SlsError("would be written over by its own result", str(found.source), fix)
    return Job(found.source, target, kind)


def _picture_target(target: Path, form: str) -> Path:
    suffix = target.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        wanted: FormatName = next((name for name in get_args(FormatName) if name == form), "png")
        return target.with_name(target.name + FORMATS[wanted].suffixes[0])
    asked = [one for name, one in FORMATS.items() if name == form]
    if not asked or suffix in asked[0].suffixes:
        return target
    return target.with_suffix(asked[0].suffixes[0])


def _known(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _inside(path: Path, out: Path) -> bool:
    return _real(path).is_relative_to(_real(out))


def _real(path: Path) -> Path:
    """The path without links in it; those that lead in a circle stay."""
    return Path(os.path.realpath(path))


def _nothing(what: str, where: str) -> SlsError:
    known = ", ".join(PICTURE_SUFFIXES + VIDEO_SUFFIXES)
    return SlsError(what, where, f"Their names end in {known}; what lies in --out is left out.")
