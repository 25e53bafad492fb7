"""Crops of photographs with their truth, to measure what a precision loses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sls_deploy.config import DataConfig
from sls_deploy.data.crops import held_out
from sls_deploy.data.photos import Photos
from sls_deploy.data.samples import copy_samples
from sls_deploy.models.architecture import Description
from sls_deploy.runtime.runner import Pictures
from sls_deploy.search.photos import load_photos
from sls_deploy.sizes import padded_side

_SIDE = 48
_PHOTOS = 32
"""Photographs that crops are cut from. Decoding them takes 10 ms each; with 8 for RFDN x4 in int8,
32 crops lost 0.04 dB where Set5 lost 0.16."""


@dataclass(frozen=True)
class Crops:
    """Inputs and truths in batches, always the same ones for the same photographs."""

    inputs: tuple[Pictures, ...]
    """What the network takes, each NCHW float32, 0..1."""
    truths: tuple[Pictures, ...]
    """What it should give."""
    source: str
    """Where the photographs come from."""


def calibration_crops(
    data: DataConfig, folder: Path | None, about: Description, count: int
) -> Crops:
    """Crops to measure on.

    Args:
        data: how inputs come about, and the photographs of the search.
        folder: other photographs.
        about: the network.
        count: how many crops.

    Raises:
        SlsError: the folder holds no photographs that can be used.
    """
    side = padded_side(_SIDE, about.least_side, about.multiple)
    photos = folder or data.photos
    if photos is not None and (folder is not None or photos.is_dir()):
        found = _load(data, photos, about, side, seen=folder is None)
        return _cut(found, count, side, str(photos))
    with TemporaryDirectory() as samples:
        copy_samples(Path(samples))
        data = data.model_copy(update={"degradation": "auto"})
        found = _load(data, Path(samples), about, side, seen=False)
        return _cut(found, count, side, "the sample photographs of scikit-image")


def _load(data: DataConfig, folder: Path, about: Description, side: int, *, seen: bool) -> Photos:
    """Of the search's own photographs those that it measures on, of others the larger part."""
    few = {"photos": folder, "held_out": _PHOTOS if seen else 1}
    learnt, apart = load_photos(data.model_copy(update=few), about, side)
    return apart if seen else learnt


def _cut(photos: Photos, count: int, side: int, source: str) -> Crops:
    """Batches of one: some graphs take no more."""
    inputs, truths = (tensor.numpy() for tensor in held_out(photos, count, side))
    return Crops(tuple(np.split(inputs, count)), tuple(np.split(truths, count)), source)
