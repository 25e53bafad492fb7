"""The photographs of a search, as its settings name them."""

from __future__ import annotations

from sls_deploy.config import DataConfig
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.sizes import padded_side

_HELD_OUT_SHARE = 0.1
"""Most of the photographs that are kept apart."""


def load_photos(config: DataConfig, description: Description, patch: int) -> tuple[Photos, Photos]:
    """Photographs to learn from and others to measure on, at most a tenth of them.

    Args:
        config: folder, memory and degradation.
        description: the network that learns; its scale, its frames and the sides it takes.
        patch: side of an input crop in pixels, which every photograph must hold.

    Raises:
        SlsError: the network cannot take such a patch, no folder was named, or it holds no usable
            photographs.
    """
    if config.photos is None:
        raise SlsError("no photographs were named", "--data", "Give a folder of pictures.")
    _check_patch(patch, description)
    scale = description.scale
    degradation, paths = choose_degradation(config, config.photos, scale, description.frames)
    photos = Photos(paths, degradation, config.cache_mib, min_side=patch * scale)
    return photos.split(min(_HELD_OUT_SHARE, config.held_out / len(photos)))


def _check_patch(patch: int, description: Description) -> None:
    name, least, multiple = description.name, description.least_side, description.multiple
    if patch < least:
        what = f"{patch} is below what {name} takes"
        raise SlsError(what, "--patch", f"Give {padded_side(least, least, multiple)} or more.")
    if patch % multiple:
        what = f"{patch} is no multiple of {multiple}, as {name} needs"
        raise SlsError(what, "--patch", f"Give {padded_side(patch, least, multiple)}.")
