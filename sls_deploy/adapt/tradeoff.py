"""The one knob of adaptive inference: the weight of cost that meets a cost or a loss of PSNR.

A tile goes to the network with the least estimated MSE + weight * cost (Oh et al., CVPR 2022,
section on adaptive inference); here a root of the MSE is taken first, see `EXPONENT`. As the
weight grows, a tile only ever moves to a cheaper network, each time at a weight that can be
computed. So the whole curve is known exactly, with no search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError

Errors = NDArray[np.float64]
"""Tiles x candidates, in order of ascending cost: mean squared errors on 0..1."""

EXPONENT = 1 / 3
"""Power of the estimated MSE that a choice is made by. With 1, as in the paper, smooth pictures
lose: their errors are so small that neither a wrong estimate nor a lost decibel counts.
docs/adaptive.md has the figures of both."""
_LEAST_MSE = 1e-10
"""Error of tiles that are restored exactly: 100 dB."""
_ALIKE = 1e-9
"""Relative difference of weights that rounding may make."""


@dataclass(frozen=True)
class Calibration:
    """Tiles that weights of cost are found on: pictures that the estimator did not learn from."""

    estimated: Errors
    """What the estimator says, which decides."""
    true: Errors
    """What the candidates really make, which judges."""
    costs: tuple[float, ...]
    """Multiply-accumulates of each candidate as a share of the dense network's, ascending."""
    estimator_cost: float
    """Those of the estimator, which looks at every tile."""


@dataclass(frozen=True)
class Found:
    """A weight of cost, and what it does to the calibration tiles."""

    weight: float
    """What a candidate of cost 1 must gain over one of cost 0, in MSE on 0..1 to the power of
    `EXPONENT`."""
    cost: float
    """Mean cost of the tiles, the estimator's included."""
    psnr: float
    """PSNR of the mean squared error over all tiles, dB."""
    loss_db: float
    """PSNR lost to the costliest candidate on every tile, dB; negative where it gained."""


@dataclass(frozen=True)
class Curve:
    """What every weight does to the calibration tiles; one point for each interval of weights."""

    weights: NDArray[np.float64]
    """A weight of each interval, ascending from 0."""
    costs: NDArray[np.float64]
    """Mean cost of the tiles, the estimator's included; never rises."""
    errors: NDArray[np.float64]
    """Mean squared error over all tiles."""
    best: float
    """Mean squared error of the costliest candidate on every tile."""

    def found(self, place: int) -> Found:
        """One point of the curve."""
        psnr = decibels(float(self.errors[place]))
        return Found(
            weight=float(self.weights[place]),
            cost=float(self.costs[place]),
            psnr=psnr,
            loss_db=decibels(self.best) - psnr,
        )

    def __len__(self) -> int:
        return len(self.weights)


def decide(
    estimated: Errors, costs: Sequence[float], weight: float, exponent: float = EXPONENT
) -> NDArray[np.intp]:
    """Place of the candidate with the least estimated MSE ** exponent + weight * cost, by tile.

    Args:
        estimated: tiles x candidates.
        costs: of the candidates, ascending; of equals the cheapest is taken.
        weight: 0 or more; infinite for the cheapest everywhere.
        exponent: above 0.
    """
    if math.isinf(weight):
        return np.zeros(len(estimated), np.intp)
    scores = estimated**exponent + weight * np.asarray(costs)
    places: NDArray[np.intp] = np.argmin(scores, axis=1)
    return places


def trade_off(calibration: Calibration) -> Curve:
    """The whole curve of cost against error, from weight 0 to one that takes the cheapest."""
    costs, scores = np.asarray(calibration.costs, np.float64), calibration.estimated**EXPONENT
    tiles: NDArray[np.intp] = np.arange(len(calibration.estimated))
    now = decide(calibration.estimated, calibration.costs, 0)
    cost, error = costs[now].mean(), calibration.true[tiles, now].mean()
    steps = []
    while len(tiles):
        weights, cheaper = _next_moves(scores[tiles], costs, now)
        moves = np.isfinite(weights)
        tiles, now, cheaper = tiles[moves], now[moves], cheaper[moves]
        true = calibration.true
        gained = true[tiles, cheaper] - true[tiles, now]
        steps.append(np.stack([weights[moves], costs[cheaper] - costs[now], gained]))
        now = cheaper
    moved = np.concatenate(steps, axis=1)
    moved = moved[:, np.argsort(moved[0], kind="stable")]
    # Moves at one weight, or nearly, are one step: the sums up to the last of them.
    ends = np.append(moved[0, 1:] > moved[0, :-1] * (1 + _ALIKE), True)[: moved.shape[1]]
    places = moved[0, ends]
    sums = np.cumsum(moved[1:], axis=1)[:, ends] / len(calibration.estimated)
    # In the middle of an interval no rounding of a sum decides otherwise.
    between = np.append((places[:-1] + places[1:]) / 2, places[-1:] * 2)
    return Curve(
        weights=np.concatenate([[0.0], between]),
        costs=np.concatenate([[cost], cost + sums[0]]) + calibration.estimator_cost,
        errors=np.maximum(np.concatenate([[error], error + sums[1]]), _LEAST_MSE),
        best=max(float(calibration.true[:, -1].mean()), _LEAST_MSE),
    )


def weight_for_cost(calibration: Calibration, target: float) -> Found:
    """The least weight whose mean cost is no more than the target.

    Args:
        calibration: tiles to find it on.
        target: mean cost, the estimator's included, as a share of the dense network's.

    Raises:
        SlsError: even the cheapest candidate everywhere costs more; says what can be reached.
    """
    curve = trade_off(calibration)
    if not target >= curve.costs[-1]:
        what = f"a mean cost of {target:g} cannot be reached"
        raise SlsError(what, "--target-cost", f"Give {_range(curve.costs, 3)}.")
    return curve.found(int(np.argmax(curve.costs <= target)))


def weight_for_loss(calibration: Calibration, target_db: float) -> Found:
    """The largest weight whose loss of PSNR to the costliest candidate is within the target.

    Args:
        calibration: tiles to find it on.
        target_db: most PSNR that may be lost, over all tiles together, dB.

    Raises:
        SlsError: every weight loses more; says what can be reached.
    """
    curve = trade_off(calibration)
    losses = 10 * np.log10(curve.errors / curve.best)
    within = np.flatnonzero(losses <= target_db)
    if not len(within):
        what = f"a loss of {target_db:g} dB cannot be reached"
        raise SlsError(what, "--target-psnr-loss", f"Give {_range(losses, 3)} dB.")
    return curve.found(int(within[-1]))


def decibels(mse: float) -> float:
    """PSNR of a mean squared error on 0..1, dB; 100 where it is 0."""
    return -10 * math.log10(max(mse, _LEAST_MSE))


def _next_moves(
    scores: NDArray[np.float64], costs: NDArray[np.float64], now: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The weight at which each tile next moves, infinite if it is at its last, and where to."""
    places = np.arange(len(scores))
    saved = costs[now][:, None] - costs[None]
    lost = scores - scores[places, now][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(saved > 0, lost / saved, np.inf)
    cheaper = np.argmin(weights, axis=1)
    return weights[places, cheaper], cheaper


def _range(values: NDArray[np.float64], digits: int) -> str:
    """The ends of what can be reached, rounded inwards at the lower one."""
    scale = 10**digits
    low, high = math.ceil(float(values.min()) * scale) / scale, float(values.max())
    return f"{low:.{digits}f} or more (up to {max(low, high):.{digits}f} changes something)"
