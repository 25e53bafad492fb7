"""The file in which measured times of kernels are kept from build to build.

TensorRT checks by itself that a cache was made by its own version on the same GPU and refuses
others; the file's name keeps them apart, so that nothing has to be thrown away.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sls_deploy.engine.device import Device
from sls_deploy.files import atomic

if TYPE_CHECKING:
    from tensorrt import IBuilderConfig, ITimingCache


def timing_cache_file(folder: Path, device: Device, version: str) -> Path:
    """Where times of one GPU, driver and version of TensorRT are kept."""
    name = re.sub(r"[^a-z0-9.]+", "-", f"{device.name} {device.driver} {version}".lower())
    return folder / "timing" / f"{name.strip('-')}.cache"


def use_timing_cache(config: IBuilderConfig, path: Path) -> ITimingCache | None:
    """Give a builder the times that were measured before; none if the file is of no use.

    The returned cache must be kept until the engine is built. It is None if the builder has none.
    """
    try:
        before = path.read_bytes()
    except OSError:  # most often because there is none yet
        before = b""
    for known in (before, b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def keep_timing_cache(config: IBuilderConfig, cache: ITimingCache, path: Path) -> None:
    """Add the times of a build to the file, with those that other builds put there meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        others = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
        if others is not None:
            cache.combine(others, False)
        with atomic(path) as temporary:
            temporary.write_bytes(cache.serialize())
