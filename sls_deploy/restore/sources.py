"""Which files are restored, and where the results go."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sls_deploy.errors import SlsError
from sls_deploy.pictures.formats import FORMATS, PICTURE_SUFFIXES, FormatName
from sls_deploy.video.formats import VIDEO_SUFFIXES, Codec, video_suffix

LISTED = "-"
"""Input that stands for the paths on standard input."""
_INPUT = "standard input"
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

    A list comes from another program, often from a look at a folder that holds `out`, too: of its
    paths those in `out` are left out, those that do not exist are jobs that will fail, and those
    that are relative without '..' keep their folders below `out`.

    A result with another suffix than its source has it in place of the source's own, or behind it
    where two results would have one name: '1.jpg.png' beside '1.png'.

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
    every = list(_all_found(inputs, out, listed))
    real = {found.source: _real(found.source) for found in every}
    targets = [out / _result(found.below, form, codec) for found in every]
    wanted: dict[Path, set[Path]] = {}
    for found, target in zip(every, targets, strict=True):
        wanted.setdefault(target, set()).add(real[found.source])
    jobs: dict[Path, Job] = {}
    for found, target in zip(every, targets, strict=True):
        shared = len(wanted[target]) > 1
        own = out / _longer(found.below, target.suffix) if shared else target
        job = Job(found.source, own, _kind(found.source))
        if _real(own) == real[found.source]:
            fix = "Name another folder with --out."
            raise SlsError("would be written over by its own result", str(job.source), fix)
        other = jobs.setdefault(own, job)
        if real[other.source] != real[job.source]:
            what = f"would be written from two inputs, {other.source} and {job.source}"
            fix = (
                "Name the folder that holds both, so that its structure is kept, or restore them "
                "into two folders."
            )
            raise SlsError(what, str(own), fix)
    return list(jobs.values())


def _all_found(inputs: Sequence[str], out: Path, listed: Iterable[str]) -> Iterator[_Found]:
    for text in inputs:
        if text == LISTED:
            yield from _of_list(listed, out)
        elif not text:
            raise SlsError("an input without a name", fix="Name files, folders or patterns.")
        elif _MAGIC.search(text) and not os.path.lexists(text):
            yield from _of_pattern(text, out)
        else:
            yield from _of_path(Path(text), out)


def _of_list(listed: Iterable[str], out: Path) -> Iterator[_Found]:
    lines = [line.rstrip("\r\n") for line in listed]
    named = [Path(line) for line in lines if line.strip()]
    if not named:
        raise SlsError("holds no paths", _INPUT, "Give one path a line.")
    if any("\0" in line for line in lines):
        fix = "Give one path a line, such as by `find` without -print0."
        raise SlsError("holds zero bytes", _INPUT, fix)
    empty = True
    for path in named:
        for found in _of_listed(path, out):
            empty = False
            yield found
    if empty:
        raise _nothing("names no pictures or video", _INPUT)


def _of_listed(path: Path, out: Path) -> Iterator[_Found]:
    alone = path.is_absolute() or ".." in path.parts
    if _inside(path, out):
        return
    if not stat.S_ISDIR(_mode(path)):
        yield _Found(path, Path(path.name) if alone else path)
        return
    for file in _in_folder(path, out):
        yield _Found(file, file.relative_to(path) if alone else file)


def _of_path(path: Path, out: Path) -> Iterator[_Found]:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise SlsError("no such file or folder", str(path)) from None
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path)) from None
    if _inside(path, out):
        fix = "Name another folder with --out, or other inputs."
        raise SlsError(f"lies in the folder for results, {out}", str(path), fix)
    if not stat.S_ISDIR(mode):
        yield _Found(path, Path(path.name))
        return
    files = _in_folder(path, out)
    if not files:
        raise _nothing("holds no pictures or video", str(path))
    for file in files:
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
            and _file(file)
        ]
    except (OSError, ValueError) as error:
        raise SlsError(f"cannot be searched ({error})", text) from None
    if not files:
        raise _nothing("matches no pictures or video", text)
    for file in sorted(files):
        yield _Found(file, file.relative_to(base))


def _in_folder(folder: Path, out: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise SlsError(f"cannot be read ({error.strerror})", str(error.filename)) from None

    files = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = (Path(place, name) for name in names if not name.startswith("."))
        files += [file for file in visible if _known(file) and _file(file)]
    return sorted(file for file in files if not _inside(file, out))


def _result(below: Path, form: str, codec: Codec) -> Path:
    """What the result of a file is called."""
    suffix = below.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        own = video_suffix(below, codec)
        return below if own == suffix else below.with_suffix(own)
    if suffix not in PICTURE_SUFFIXES:
        wanted: FormatName = next((name for name in get_args(FormatName) if name == form), "png")
        return _longer(below, FORMATS[wanted].suffixes[0])
    asked = [one for name, one in FORMATS.items() if name == form]
    if not asked or suffix in asked[0].suffixes:
        return below
    return below.with_suffix(asked[0].suffixes[0])


def _longer(below: Path, suffix: str) -> Path:
    """A name with a suffix behind its own, unless it is the same."""
    return below if below.suffix == suffix else below.with_name(below.name + suffix)


def _kind(source: Path) -> Literal["picture", "video"]:
    return "video" if source.suffix.lower() in VIDEO_SUFFIXES else "picture"


def _known(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _file(path: Path) -> bool:
    """Whether a name in a folder is a file, or leads to nothing, which its job will tell."""
    mode = _mode(path)
    return not mode or stat.S_ISREG(mode)


def _mode(path: Path) -> int:
    """What a path leads to, as `stat` has it; 0 for nothing that can be seen."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _inside(path: Path, out: Path) -> bool:
    return _real(path).is_relative_to(_real(out))


def _real(path: Path) -> Path:
    """The path without links in it; those that lead in a circle stay."""
    return Path(os.path.realpath(path))


def _nothing(what: str, where: str) -> SlsError:
    known = ", ".join(PICTURE_SUFFIXES + VIDEO_SUFFIXES)
    return SlsError(what, where, f"Their names end in {known}; what lies in --out is left out.")
