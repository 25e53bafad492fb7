"""Crops of photographs with their truth, to measure what a precision loses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sls_deploy.config import DataConfig
from sls_deploy.data.crops import held_out
from sls_deploy.data.photos import Photos
from sls_deploy.data.samples import TRAIN, VALIDATION, export_samples
from sls_deploy.models.architecture import Description
from sls_deploy.runtime.runner import Pictures
from sls_deploy.search.photos import load_photos
from sls_deploy.sizes import padded_side

_SIDE = 48
_PHOTOS = 8
"""Photographs that crops are cut from: decoding them takes most of the time."""


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
        return _cut(_load(data, photos, about, side), count, side, str(photos))
    with TemporaryDirectory() as samples:
        export_samples(Path(samples), (*TRAIN, *VALIDATION))
        data = data.model_copy(update={"degradation": "auto"})
        found = _load(data, Path(samples), about, side)
        return _cut(found, count, side, "the sample photographs of scikit-image")


def _load(data: DataConfig, folder: Path, about: Description, side: int) -> Photos:
    """The photographs that a search would measure on; those that it learns from count as seen."""
    few = {"photos": folder, "held_out": _PHOTOS}
    return load_photos(data.model_copy(update=few), about, side)[1]


def _cut(photos: Photos, count: int, side: int, source: str) -> Crops:
    """Batches of one: some graphs take no more."""
    inputs, truths = (tensor.numpy() for tensor in held_out(photos, count, side))
    return Crops(tuple(np.split(inputs, count)), tuple(np.split(truths, count)), source)
