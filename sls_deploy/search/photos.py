"""The photographs of a search, as its settings name them."""

from __future__ import annotations

from sls_deploy.config import DataConfig
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.models.registry import REGISTRY, Description

_HELD_OUT_SHARE = 0.1
"""Most of the photographs that are kept apart."""


def load_photos(config: DataConfig, description: Description, patch: int) -> tuple[Photos, Photos]:
    """Photographs to learn from and others to measure on, at most a tenth of them.

    Args:
        config: folder and memory.
        description: the network that learns; its scale and least side.
        patch: side of an input crop in pixels, which every photograph must hold.

    Raises:
        SlsError: the network cannot take such a patch, no folder was named, or it holds no usable
            photographs.
    """
    if config.photos is None:
        raise SlsError("no photographs were named", "--data", "Give a folder of pictures.")
    least, scale = REGISTRY.get(description.name).least_side, description.scale
    if patch < least:
        what = f"{patch} is below what {description.name} takes"
        raise SlsError(what, "--patch", f"Give {least} or more.")
    photos = Photos.from_folder(config.photos, scale, config.cache_mib, min_side=patch * scale)
    return photos.split(min(_HELD_OUT_SHARE, config.held_out / len(photos)))
