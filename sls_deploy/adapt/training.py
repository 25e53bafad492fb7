"""Trains an estimator on measured photographs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from sls_deploy.adapt.measuring import BLOCK, Measured
from sls_deploy.adapt.network import Estimator
from sls_deploy.adapt.tradeoff import EXPONENT, Errors
from sls_deploy.data.bicubic import Picture
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report
from sls_deploy.runtime.runner import Pictures

_BATCH = 32
_RATE = 2e-3
_WARM_UP = 0.1
_DECAY = 1e-4
_STEPS = 30.0
"""Weight of the steps from candidate to candidate beside that of the errors themselves. They are a
tenth of what errors vary by from tile to tile, and a choice hangs on them; docs/adaptive.md
compares trainings with and without."""
_LEAST_MSE = 1e-7
"""Errors below that of 70 dB are alike: they are less than what rounding to 8 bits makes."""


class TileSampler:
    """Random tiles of measured photographs, flipped and turned.

    A photograph is drawn by its number of blocks. A tile may begin at any block.

    Args:
        measured: parts of photographs, each with room for a tile.
        tile: side, input pixels; a multiple of 8.
        seed: 0 or more.
    """

    def __init__(self, measured: Sequence[Measured], tile: int, seed: int) -> None:
        self._measured, self._blocks = measured, tile // BLOCK
        sizes = np.array([part.blocks for part in measured], np.float64)
        self._shares = sizes / sizes.sum()
        self._random = np.random.default_rng(seed)

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tiles, float NCHW on 0..1, and the mean squared errors of all candidates on them."""
        tiles, errors = [], []
        for number in self._random.choice(len(self._measured), count, p=self._shares):
            part, side = self._measured[number], self._blocks
            rows, columns = part.errors.shape[1:]
            top = int(self._random.integers(rows - side + 1))
            left = int(self._random.integers(columns - side + 1))
            tile = np.rot90(_cut(part, top, left, side), int(self._random.integers(4)))
            tiles.append(tile[:, ::-1] if self._random.integers(2) else tile)
            errors.append(part.errors[:, top : top + side, left : left + side].mean((1, 2)))
        pictures = torch.from_numpy(np.stack(tiles).transpose(0, 3, 1, 2).copy()).float() / 255
        return pictures, torch.from_numpy(np.stack(errors))


def calibration_tiles(measured: Sequence[Measured], tile: int) -> tuple[Pictures, Errors]:
    """Tiles that cover the photographs, as evenly as they can, and their errors.

    Args:
        measured: parts of photographs, each with room for a tile.
        tile: side, input pixels; a multiple of 8.

    Returns:
        Inputs, NCHW float32 on 0..1, and the mean squared error of each candidate.
    """
    side = tile // BLOCK
    tiles, errors = [], []
    for part in measured:
        rows, columns = (_starts(length, side) for length in part.errors.shape[1:])
        for top, left in product(rows, columns):
            tiles.append(_cut(part, top, left, side))
            errors.append(part.errors[:, top : top + side, left : left + side].mean((1, 2)))
    pictures = np.stack(tiles).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(pictures), np.stack(errors).astype(np.float64)


def train_estimator(
    estimator: Estimator,
    sampler: TileSampler,
    steps: int,
    report: Report,
) -> None:
    """Train an estimator in place, see `estimation_loss`.

    Args:
        estimator: with fresh weights; its last bias is set to the tiles' mean first.
        sampler: tiles to learn from.
        steps: training steps.
        report: told of each step, with the deviation of the estimate in dB.

    Raises:
        SlsError: the estimate is no number any more.
    """
    _, errors = sampler.batch(16 * _BATCH)
    estimator.start_from(_logarithm(errors).mean(0))
    optimiser = torch.optim.AdamW(estimator.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _RATE, total_steps=steps + 1, pct_start=_WARM_UP
    )
    estimator.train()
    for step in range(steps):
        tiles, errors = sampler.batch(_BATCH)
        estimated = estimator(tiles)[:, :, 0, 0]
        loss = estimation_loss(estimated, errors)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(estimator.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = float(((estimated.detach() - _logarithm(errors)) ** 2).mean())
        off = mean**0.5 * 10 / float(np.log(10))
        if not np.isfinite(off):
            raise SlsError("the estimators diverged", "adapt", "Give another --seed.")
        report(Progress("adapt: train", step + 1, steps, {"dB off": off}))
    estimator.eval()


def estimation_loss(estimated: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """How far an estimate is off: in the logarithm, and in its steps between candidates, squared.

    Each error counts by the root that the choice is made by, each step by that of its costlier
    candidate: what is small anyway decides little.

    Args:
        estimated: tiles x candidates, two or more of them, logarithms of the MSE.
        errors: the true MSE of the same.

    Returns:
        Weighted mean over tiles and candidates, a scalar.
    """
    true = _logarithm(errors)
    weights = (EXPONENT * true).exp()
    weights = weights / weights.mean()
    off = estimated - true
    return (weights * off**2).mean() + _STEPS * (weights[:, 1:] * off.diff(dim=1) ** 2).mean()


def _logarithm(errors: torch.Tensor) -> torch.Tensor:
    return errors.clamp(min=_LEAST_MSE).log()


def _cut(part: Measured, top: int, left: int, side: int) -> Picture:
    """The input of a tile, from the place and the number of its blocks."""
    rows, columns = (slice(start * BLOCK, (start + side) * BLOCK) for start in (top, left))
    return part.picture[rows, columns]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin that cover a length, spread evenly."""
    count = -(-length // side)
    return [(length - side) * place // max(count - 1, 1) for place in range(count)]
