"""Pictures in files: any part of one as float RGB, in memory that hangs little on its size."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyvips
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.pictures.formats import (
    HEAD,
    FormatName,
    foreign_format,
    format_of,
    png_frames,
    tiff_exif,
)
from sls_deploy.pictures.metadata import Metadata, metadata_of
from sls_deploy.pictures.raster import Raster, Samples
from sls_deploy.pictures.vips import vips_errors

_NO_PICTURE = "cannot be read as a picture"
_FORMATS = "PNG, JPEG, WebP and TIFF are read"
_UNREAD = "left out EXIF data, which is not read from TIFF"
_BITS: dict[str, Literal[8, 16]] = {"uchar": 8, "ushort": 16}
_TURNED = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""EXIF orientation: whether sides are swapped, then rows reversed, then columns (EXIF 2.32,
4.6.4, tag 0x0112)."""


@dataclass(frozen=True)
class _Opened:
    """A picture as libvips will decode it, with its colours made plain."""

    form: FormatName
    """Format by the content."""
    image: pyvips.Image
    """Grey or RGB of 8 or 16 bits, perhaps with alpha; not decoded yet, nor turned."""
    metadata: Metadata
    """What else the file says."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    notes: tuple[str, ...]
    """What was done to the colours, and what was left out."""


class Still:
    """A picture in a file; a context manager.

    It is decoded as a whole when its pixels are first asked for, as a stream into memory or into
    a scratch file, so that damage shows before a network runs. Progressive JPEG, interlaced PNG
    and WebP are the formats that libvips takes into memory whole (up to 6, 3 and 4 bytes for a
    pixel of 8-bit RGB).
    """

    path: Path
    """The file."""
    form: FormatName
    """Format by the content, whatever the name."""
    height: int
    """Pixels, upright."""
    width: int
    """Pixels, upright."""
    grey: bool
    """Whether it has one colour only."""
    alpha: bool
    """Whether it has transparency."""
    bits: Literal[8, 16]
    """Bits of a sample."""
    notes: tuple[str, ...]
    """What was done to it, such as 'CMYK converted to sRGB'."""
    metadata: Metadata
    """Colour profile, EXIF, XMP, IPTC and resolution."""

    def __init__(self, path: Path, opened: _Opened, scratch: Path, in_memory: int) -> None:
        image = opened.image
        self.path, self.form = path, opened.form
        self.notes, self.metadata = opened.notes, opened.metadata
        self._turned = _TURNED[opened.orientation]
        self._stored = (image.height, image.width, image.bands)
        sides = (image.height, image.width)
        self.height, self.width = sides[::-1] if self._turned[0] else sides
        self.grey, self.alpha = image.bands < 3, image.bands in (2, 4)
        self.bits = _BITS[image.format]
        self._scratch, self._in_memory = scratch, in_memory
        self._raster: Raster | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the pixels; may be called twice."""
        if self._raster:
            self._raster.close()
            self._raster = None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """A part of the upright picture.

        Returns:
            CHW, three colours in the picture's own colour space (grey replicated, alpha left
            out), 0..1.

        Raises:
            SlsError: the file turns out damaged, or there is no room for its pixels.
        """
        samples = self._samples(top, left, height, width)
        colours = samples[:, :, :1] if self.grey else samples[:, :, :3]
        planes = np.empty((3, height, width), np.float32)
        planes[:] = colours.transpose(2, 0, 1)
        planes /= np.float32((1 << self.bits) - 1)
        return planes

    def read_alpha(self, top: int, left: int, height: int, width: int) -> Samples:
        """A part of the transparency, height x width x 1, as in the file.

        Raises:
            SlsError: as `read`.
        """
        if not self.alpha:
            raise ValueError("no transparency")
        return self._samples(top, left, height, width)[:, :, -1:]

    def _samples(self, top: int, left: int, height: int, width: int) -> Samples:
        swapped, down, across = self._turned
        if down:
            top = self.height - top - height
        if across:
            left = self.width - left - width
        raster = self._raster or self._decoded()
        part = (
            raster.read(left, top, width, height).swapaxes(0, 1)
            if swapped
            else raster.read(top, left, height, width)
        )
        return part[:: -1 if down else 1, :: -1 if across else 1]

    def _decoded(self) -> Raster:
        image = _open(self.path).image
        if (image.height, image.width, image.bands) != self._stored or (
            _BITS[image.format] != self.bits
        ):
            raise SlsError("has changed since it was opened", str(self.path), "Start again.")
        raster = Raster(*self._stored, self.bits, self._scratch, self._in_memory)
        try:
            with vips_errors(self.path, "is damaged or cut short"):
                raster.fill(image)
        except BaseException:
            raster.close()
            raise
        self._raster = raster
        return raster


def open_still(
    path: Path,
    max_megapixels: int,
    scratch: Path | None = None,
    in_memory: int = 128 * 2**20,
) -> Still:
    """Open a picture from its header alone.

    The format is told by the content, not by the name, and no format but PNG, JPEG, WebP and TIFF
    reaches a decoder. Palettes and 1-bit pictures become 8-bit; CMYK becomes sRGB through
    its own profile if there is one; other colours stay in the space of the file's profile.

    Args:
        path: the file.
        max_megapixels: pixels above which it is refused, in millions.
        scratch: folder for the decoded pixels if there are many; the system's by default.
        in_memory: bytes of decoded pixels up to which they are kept in memory.

    Raises:
        SlsError: no such file, no picture, damaged, more than one page or frame, too large, or
            colours or samples without a plain conversion.
    """
    opened = _open(path)
    width, height = opened.image.width, opened.image.height
    if width * height > max_megapixels * 10**6:
        what = f"has {width} x {height} pixels, more than {max_megapixels} million"
        fix = "Raise --max-megapixels if that is right, or crop it."
        raise SlsError(what, str(path), fix)
    return Still(path, opened, scratch or Path(tempfile.gettempdir()), in_memory)


def _open(path: Path) -> _Opened:
    kind, unread = _checked(path)
    load = getattr(pyvips.Image, f"{kind}load_source")
    with vips_errors(path, _NO_PICTURE):
        # By a descriptor, because libvips takes options out of file names.
        handle = os.open(path, os.O_RDONLY)
        try:
            source = pyvips.Source.new_from_descriptor(handle)
        finally:
            os.close(handle)
        image = load(source, access="sequential", fail_on="error")
        _refuse_pages(path, image)
        return _plain(path, kind, image, [_UNREAD] if unread else [])


def _checked(path: Path) -> tuple[FormatName, bool]:
    """The format by the content of a file that may be read, and whether its EXIF is left unread."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SlsError("is a folder, not a picture", str(path))
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its other end
            raise SlsError("is not a regular file", str(path))
        with path.open("rb") as file:
            head = file.read(HEAD)
            kind = format_of(head)
            frames = png_frames(file) if kind == "png" else 1
            unread = kind == "tiff" and tiff_exif(file)
    except FileNotFoundError:
        raise SlsError("no such file", str(path)) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SlsError(f"cannot be read ({why})", str(path)) from None
    if frames > 1:
        raise _several(path, frames)
    if kind:
        return kind, unread
    if not head:
        raise SlsError("is empty", str(path))
    foreign = foreign_format(head)
    what = f"is a {foreign} file" if foreign else f"{_NO_PICTURE} (no known format)"
    raise SlsError(what, str(path), f"{_FORMATS}; convert it to one of them.")


def _refuse_pages(path: Path, image: pyvips.Image) -> None:
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if pages > 1:
        raise _several(path, pages)


def _several(path: Path, count: int) -> SlsError:
    fix = "Save each as a picture of its own, or an animation as a video."
    return SlsError(f"holds {count} pages or frames, not one picture", str(path), fix)


def _plain(path: Path, form: FormatName, image: pyvips.Image, notes: list[str]) -> _Opened:
    """Make the colours grey or RGB, or say why not."""
    colours = image.interpretation
    number = image.get("orientation") if image.get_typeof("orientation") else 1
    if colours == "cmyk" and image.bands == 4 and image.format in _BITS:
        depth = _BITS[image.format]
        # Without a profile of its own, libvips takes a common one for print.
        image = image.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
        notes.append("CMYK converted to sRGB")
    elif colours not in ("b-w", "grey16", "srgb", "rgb", "rgb16"):
        what = f"has colours of a kind that is not restored ({colours}, {image.bands} bands)"
        raise SlsError(what, str(path), "Convert it to RGB.")
    if image.format not in _BITS:
        what = f"has samples of a kind that is not restored ({image.format})"
        raise SlsError(what, str(path), "Convert it to 8 or 16 bits without sign.")
    if image.bands > 4:
        raise SlsError(f"has {image.bands} bands", str(path), "Convert it to RGB.")
    metadata, sound = metadata_of(image, 1 if image.bands < 3 else 3)
    if not sound:
        notes.append("left out a colour profile that is broken or for other colours")
    orientation = number if number in _TURNED else 1
    return _Opened(form, image, metadata, orientation, tuple(notes))
