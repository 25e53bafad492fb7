"""The formats of pictures that are read and written, and how to tell them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

FormatName = Literal["png", "jpeg", "webp", "tiff"]


@dataclass(frozen=True)
class Format:
    """What a format of pictures can hold."""

    name: FormatName
    """As `--format` has it, and as libvips names its loader and saver."""
    suffixes: tuple[str, ...]
    """Endings of file names in lower case, the usual one first."""
    longest_side: int
    """Most pixels along a side that can be written."""
    deep: bool
    """Whether it holds 16 bits."""
    alpha: bool
    """Whether it holds transparency."""


FORMATS: dict[FormatName, Format] = {
    "png": Format("png", (".png",), 1_000_000, deep=True, alpha=True),
    # The file format reaches 65535, libjpeg only JPEG_MAX_DIMENSION.
    "jpeg": Format("jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"), 65_500, deep=False, alpha=False),
    "webp": Format("webp", (".webp",), 16_383, deep=False, alpha=True),
    "tiff": Format("tiff", (".tif", ".tiff"), 10_000_000, deep=True, alpha=True),
}
PICTURE_SUFFIXES = tuple(suffix for one in FORMATS.values() for suffix in one.suffixes)
"""Endings by which files in a folder count as pictures."""

_EXIF_TAG = 34665
"""Tag of TIFF that points to EXIF data (EXIF 2.32, 4.6.3)."""
_MOST_TAGS = 4096
"""Entries of a directory of TIFF that are looked at."""

HEAD = 64
"""Bytes at the start of a file that tell its format."""

_STARTS: tuple[tuple[bytes, FormatName], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
_FOREIGN = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "video"),
    (0, b"\x1aE\xdf\xa3", "video"),
)


def format_named(path: Path) -> Format | None:
    """The format that a file's name asks for; None for a name that is no picture's."""
    suffix = path.suffix.lower()
    return next((one for one in FORMATS.values() if suffix in one.suffixes), None)


def format_of(head: bytes) -> FormatName | None:
    """The format of a file by its first bytes, whatever its name; None for any other."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((name for start, name in _STARTS if head.startswith(start)), None)


def foreign_format(head: bytes) -> str:
    """What a file is that is none of `FORMATS`, for a message; empty if it is not known."""
    return next((name for at, mark, name in _FOREIGN if head[at:].startswith(mark)), "")


def png_frames(file: BinaryIO) -> int:
    """Number of frames of a PNG file: libvips sees the first of an animated one only.

    The chunk that tells must stand before the pixels (PNG specification, third edition, 11.3.4).
    """
    file.seek(8)
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"acTL":
            return int.from_bytes(file.read(4), "big") if length == 8 else 1
        if kind == b"IDAT" or length > 2**31 - 1:
            break
        file.seek(length + 4, 1)
    return 1


def tiff_exif(file: BinaryIO) -> bool:
    """Whether the first directory of a TIFF file points to EXIF data: libvips does not read it.

    Classic and big files alike (TIFF 6.0, section 2; BigTIFF in libtiff's documentation).
    """
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    entry = 20 if big else 12
    number = struct.Struct(order + ("Q" if big else "H"))
    try:
        (place,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", start, 8 if big else 4)
        file.seek(place)
        (count,) = number.unpack(file.read(number.size))
    except (OSError, OverflowError, struct.error):
        return False
    entries = file.read(entry * min(count, _MOST_TAGS))
    tag = struct.Struct(f"{order}H")
    places = range(0, len(entries) - entry + 1, entry)
    return any(tag.unpack_from(entries, place)[0] == _EXIF_TAG for place in places)
