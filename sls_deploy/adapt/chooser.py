"""Which network each tile is given to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sls_deploy.adapt.adaptation import Adaptation
from sls_deploy.adapt.tradeoff import Errors, decide
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures, Runner

LEAST_SIDE = 16
"""Smallest side of a tile that an estimator takes, input pixels."""
AT_ONCE = 64
"""Tiles that are estimated together at most."""


class Chooser:
    """Gives each tile to the candidate with the least estimate + weight * cost, see `decide`.

    Args:
        adaptation: the candidates, and the surround of the tiles.
        estimator: runs `adapt/estimator.onnx` or its engine; it stays the caller's.
        weight: of cost, 0 or more, from `weight_for_cost` or `weight_for_loss`.
    """

    def __init__(self, adaptation: Adaptation, estimator: Runner, weight: float) -> None:
        self.adaptation, self.weight = adaptation, weight
        self._estimator = estimator

    def choose(self, tiles: Pictures) -> NDArray[np.intp]:
        """Place of the candidate for each tile.

        Args:
            tiles: NCHW float32, RGB, 0..1, the parts that are kept: without the overlap that is
                restored with them and given up; both sides at least 16.

        Raises:
            SlsError: as `estimate` does.
        """
        return decide(self.estimate(tiles), self.adaptation.costs, self.weight)

    def estimate(self, tiles: Pictures) -> Errors:
        """Mean squared error on 0..1 that each candidate is expected to make, tiles x candidates.

        Raises:
            SlsError: the estimator cannot take the tiles, or gives what is no number.
        """
        return estimate(self._estimator, tiles, len(self.adaptation.candidates))


def estimate(estimator: Runner, tiles: Pictures, candidates: int) -> Errors:
    """Mean squared errors that an estimator expects of tiles, tiles x candidates.

    Raises:
        SlsError: it cannot take the tiles, or gives what is no number.
    """
    parts = (tiles[place : place + AT_ONCE] for place in range(0, len(tiles), AT_ONCE))
    logarithms = np.concatenate([estimator.run(part) for part in parts])
    wanted = (len(tiles), candidates, 1, 1)
    if logarithms.shape != wanted or not np.isfinite(logarithms).all():
        what = f"gives {list(logarithms.shape)}, where numbers of shape {list(wanted)} are needed"
        raise SlsError(what, estimator.name, "`sls-deploy adapt` makes the estimator anew.")
    errors: Errors = np.exp(logarithms[:, :, 0, 0].astype(np.float64))
    return errors
