"""libvips as this project uses it: nothing cached, and its errors on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyvips

from sls_deploy.errors import SlsError

# Every picture is read once; what is kept of it would only be memory. It is a setting of the
# process, and nothing else here uses libvips.
pyvips.cache_set_max(0)

_SYSTEM = re.compile(r"^(?:system|unix) error: (?!Unknown error)(.+)$", re.MULTILINE)
_LONGEST = 160


@contextmanager
def vips_errors(path: Path, what: str, fix: str = "") -> Iterator[None]:
    """Turn what libvips raises into one clear error about `path`, with its reason behind `what`."""
    try:
        yield
    except pyvips.Error as error:
        raise SlsError(f"{what} ({_reason(str(error))})", str(path), fix) from None


def field_names(image: pyvips.Image) -> set[str]:
    """Names of what a picture's file says, without those that are not UTF-8.

    Keywords of PNG are Latin-1 and end up in names of libvips as they are, where pyvips's own
    `get_fields` raises UnicodeDecodeError.
    """
    names, place = set(), 0
    array = pyvips.vips_lib.vips_image_get_fields(image.pointer)
    while array[place] != pyvips.ffi.NULL:
        name = pyvips.ffi.string(array[place])
        pyvips.glib_lib.g_free(array[place])
        with suppress(UnicodeDecodeError):
            names.add(name.decode())
        place += 1
    pyvips.glib_lib.g_free(array)
    return names


def _reason(said: str) -> str:
    """What went wrong first: libvips appends a line for every layer that saw it."""
    if system := _SYSTEM.search(said):
        return system[1]
    told = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    return (told[0] if told else "no reason given")[:_LONGEST]
