"""Crops of photographs as batches of tensors."""

from __future__ import annotations

import numpy as np
import torch

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.photos import Photos

_STEPS_PER_PHOTO = 4
"""Steps after which one photograph of the pool is exchanged."""


class CropSampler:
    """Random aligned crops, flipped and turned; each batch depends on seed and step alone.

    Crops come from a pool of photographs that moves through a shuffled folder, one every four
    steps, and is as large as the cache: a folder that does not fit into memory costs one
    decoding every four steps, not one for each crop.

    Args:
        photos: the photographs; their `min_side` must be at least patch * scale.
        patch: side of an input crop in pixels; the truth's is `scale` times that.
        batch: crops in a batch.
        seed: 0 or more.
    """

    def __init__(self, photos: Photos, patch: int, batch: int, seed: int) -> None:
        _check_side(photos, patch)
        self.photos, self.patch, self.size, self.seed = photos, patch, batch, seed
        self._order = np.random.default_rng(seed).permutation(len(photos))
        self._pool = min(len(photos), max(batch, photos.cached))

    def of_size(self, batch: int) -> CropSampler:
        """The same with another number of crops in a batch."""
        return CropSampler(self.photos, self.patch, batch, self.seed)

    def batch(
        self, step: int, share: tuple[int, int] = (0, 1)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and truth of a step, float32 NCHW RGB 0..1.

        Args:
            step: 0 or more.
            share: (k, n) gives crops k, k + n, ... of the same batch: one of n equal parts.
        """
        first, parts = share
        if self.size % parts:
            raise ValueError(f"{self.size} crops have no {parts} equal parts")
        generator = np.random.default_rng((self.seed, step))
        crops = []
        for number in range(self.size):
            place = step // _STEPS_PER_PHOTO + int(generator.integers(self._pool))
            pair = self.photos.pair(int(self._order[place % len(self._order)]))
            lr, hr = _crop(pair, self.patch, self.photos.scale, generator)
            turns, mirror = int(generator.integers(4)), bool(generator.integers(2))
            lr, hr = np.rot90(lr, turns), np.rot90(hr, turns)
            if number % parts == first:
                crops.append((lr[:, ::-1], hr[:, ::-1]) if mirror else (lr, hr))
        return _tensors(crops)


def held_out(photos: Photos, count: int, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops to measure on, always the same ones, spread over the photographs.

    Args:
        photos: the photographs; their `min_side` must be at least patch * scale.
        count: crops to take.
        patch: side of an input crop in pixels.

    Returns:
        Input and truth, float32 NCHW RGB 0..1.
    """
    _check_side(photos, patch)
    crops = []
    for number in range(count):
        index = number * len(photos) // count if count < len(photos) else number % len(photos)
        generator = np.random.default_rng(number)
        crops.append(_crop(photos.pair(index), patch, photos.scale, generator))
    return _tensors(crops)


def _check_side(photos: Photos, patch: int) -> None:
    if photos.min_side < patch * photos.scale:
        raise ValueError(f"min_side {photos.min_side} is below {patch} * {photos.scale}")


def _crop(
    pair: tuple[Picture, Picture], patch: int, scale: int, generator: np.random.Generator
) -> tuple[Picture, Picture]:
    lr, hr = pair
    top = int(generator.integers(lr.shape[0] - patch + 1))
    left = int(generator.integers(lr.shape[1] - patch + 1))
    side = patch * scale
    return (
        lr[top : top + patch, left : left + patch],
        hr[top * scale : top * scale + side, left * scale : left * scale + side],
    )


def _tensors(crops: list[tuple[Picture, Picture]]) -> tuple[torch.Tensor, torch.Tensor]:
    lr, hr = (np.stack(pictures).transpose(0, 3, 1, 2) for pictures in zip(*crops, strict=True))
    return _tensor(lr), _tensor(hr)


def _tensor(pictures: Picture) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).float().div_(255)
