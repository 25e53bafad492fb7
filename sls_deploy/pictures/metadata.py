"""What a picture's file says beside its pixels, and is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyvips

from sls_deploy.pictures.vips import field_names

_PROFILE = "icc-profile-data"
_THUMBNAIL = "jpeg-thumbnail-data"
_EXIF = "exif-data"
_IPTC = "iptc-data"
_BLOCKS = (_PROFILE, _EXIF, "xmp-data", _IPTC, "resolution-unit")
_UNKNOWN = 1.0
"""Pixels in a millimetre that libvips has where a file does not tell."""
_USUAL = 72 / 25.4
"""What EXIF has it mean if a file does not tell (2.32, 4.6.4, XResolution): 72 dots an inch."""
_COLOURS = {b"GRAY": 1, b"RGB ": 3}


@dataclass(frozen=True)
class Metadata:
    """Colour profile, EXIF, XMP, IPTC and resolution of a picture.

    Orientation and thumbnail are left out: the picture is written upright, and is another one.
    """

    fields: tuple[tuple[int, str, Any], ...]
    """Type, name and value of each, as libvips has them."""
    resolution: tuple[float, float]
    """Pixels in a millimetre, across and down, as stored; 1 where the file did not say."""

    @property
    def profile(self) -> bool:
        """Whether there is a colour profile."""
        return self._has(_PROFILE)

    @property
    def exif(self) -> bool:
        """Whether there is EXIF data."""
        return self._has(_EXIF)

    @property
    def iptc(self) -> bool:
        """Whether there is IPTC data."""
        return self._has(_IPTC)

    def put_on(self, image: pyvips.Image) -> tuple[pyvips.Image, int]:
        """The picture with all this, and what a saver of libvips is to keep of it.

        libvips writes EXIF for a picture that had none, too; that is wanted only where it is the
        one place for a known resolution.
        """
        across, down = self.resolution
        if across == down == _UNKNOWN:
            across = down = _USUAL
        known = max(abs(across - _USUAL), abs(down - _USUAL)) > 0.01
        dressed = image.copy(xres=across, yres=down)
        for kind, name, value in self.fields:
            dressed.set_type(kind, name, value)
        dressed.set_type(pyvips.GValue.gint_type, "orientation", 1)
        # libvips takes it out of the EXIF data only if it was seen to be removed.
        dressed.set_type(pyvips.GValue.blob_type, _THUMBNAIL, b"-")
        dressed.remove(_THUMBNAIL)
        keep = int(pyvips.enums.ForeignKeep.ALL)
        if not known and not self.exif:
            keep &= ~int(pyvips.enums.ForeignKeep.EXIF)
        return dressed, keep

    def _has(self, wanted: str) -> bool:
        return any(name == wanted for _, name, _ in self.fields)


def metadata_of(image: pyvips.Image, colours: int) -> tuple[Metadata, bool]:
    """What to keep of a picture that has just been opened, and whether its profile is sound.

    Args:
        image: the picture, with the fields that libvips found.
        colours: number of colour bands, 1 or 3.
    """
    names = field_names(image)
    sound = _PROFILE not in names or _sound(image.get(_PROFILE), colours)
    kept = [
        name
        for name in sorted(names)
        if (name in _BLOCKS and (sound or name != _PROFILE))
        or (name.startswith(("exif-ifd0-", "exif-ifd2-", "exif-ifd3-")) and _whole(image, name))
    ]
    fields = tuple((image.get_typeof(name), name, image.get(name)) for name in kept)
    fields = tuple(field for field in fields if field[1] != "exif-ifd0-Orientation")
    return Metadata(fields, (image.xres, image.yres)), sound


def _whole(image: pyvips.Image, name: str) -> bool:
    """Whether a field is text that Python can take."""
    try:
        image.get(name)
    except UnicodeDecodeError:
        return False
    return True


def _sound(profile: bytes, colours: int) -> bool:
    """Whether a profile has the header of ICC.1:2022 (7.2) and is for so many colours."""
    return (
        len(profile) > 128
        and profile[36:40] == b"acsp"
        and _COLOURS.get(bytes(profile[16:20])) == colours
    )
