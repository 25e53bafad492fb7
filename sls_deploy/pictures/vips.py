"""libvips as this project uses it: nothing cached, and its errors on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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


def _reason(said: str) -> str:
    """What went wrong first: libvips appends a line for every layer that saw it."""
    if system := _SYSTEM.search(said):
        return system[1]
    told = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    return (told[0] if told else "no reason given")[:_LONGEST]
