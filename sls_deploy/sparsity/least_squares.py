"""The least squares that a layer's weights are corrected by.

A layer's output is linear in its weights, so what pruning does to it is a quadratic form. With
inputs X (one row a position) and outputs Y to reproduce, H = X'X and C = X'Y say all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it."""


@dataclass(frozen=True)
class Problem:
    """Least squares of one convolution group's filters.

    Sums over positions; a damped weight is drawn to the dense one.
    """

    weight: Tensor
    """Dense weights, [filters, channels, taps], float64."""
    hessian: Tensor
    """X'X plus damping, [channels * taps, channels * taps], float64."""
    target: Tensor
    """X'Y plus damping times the dense weights, [filters, channels * taps], float64."""

    @classmethod
    def of(cls, weight: Tensor, hessian: Tensor, target: Tensor) -> Problem:
        """Damp the sums of a layer.

        Args:
            weight: dense weights, [filters, channels, taps].
            hessian: X'X.
            target: X'Y, one row a filter.
        """
        weight, hessian, target = weight.double(), hessian.double(), target.double()
        # Inputs that are zero everywhere leave nothing to solve: one stands in for their mean.
        damping = DAMPING * float(hessian.diagonal().mean()) or 1.0
        identity = torch.eye(len(hessian), dtype=torch.float64)
        return cls(weight, hessian + damping * identity, target + damping * weight.flatten(1))

    def solve(self) -> Tensor:
        """The best dense weights, [filters, channels * taps], float64."""
        factor = torch.linalg.cholesky(self.hessian)
        return torch.cholesky_solve(self.target.T, factor).T

    def refit(self, keep: Tensor) -> Tensor:
        """The best weights that are zero where `keep` is false; exact, in float64.

        Args:
            keep: bool of shape [filters, channels * taps].

        Returns:
            float64 of the same shape.
        """
        result = torch.zeros(keep.shape, dtype=torch.float64)
        for rows in chunks(len(keep), Systems.size(keep)):
            result[rows] = Systems(self.hessian, keep[rows]).solve(self.target[rows])
        return result

    def error(self, weight: Tensor) -> Tensor:
        """What weights cost each filter beyond the best dense ones, in the unit of Y squared.

        Args:
            weight: [filters, channels * taps], float64.
        """
        delta = weight - self.solve()
        return ((delta @ self.hessian) * delta).sum(1)


class Systems:
    """The equations of the weights that each filter keeps, factored.

    Args:
        hessian: H, [columns, columns], float64.
        keep: bool of shape [filters, columns].
    """

    def __init__(self, hessian: Tensor, keep: Tensor) -> None:
        most = int(keep.sum(1).max())
        # Filters keep about the same number; the places that one has fewer solve 1 * x = 0.
        order = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        self._columns = order[:, :most]
        self._real = keep.gather(1, self._columns)
        matrix = hessian[self._columns[:, :, None], self._columns[:, None, :]]
        both = self._real[:, :, None] & self._real[:, None, :]
        matrix = torch.where(both, matrix, torch.eye(most, dtype=hessian.dtype))
        self._factor = torch.linalg.cholesky(matrix)

    @staticmethod
    def size(keep: Tensor) -> int:
        """Bytes that one filter's factor takes."""
        return int(keep.sum(1).max()) ** 2 * 8

    def solve(self, right: Tensor) -> Tensor:
        """Weights whose products with H are `right` where they are kept; zero elsewhere.

        Args:
            right: [filters, columns], float64; what it holds at pruned weights is not read.
        """
        own = (right.gather(1, self._columns) * self._real)[:, :, None]
        solved = torch.cholesky_solve(own, self._factor)[:, :, 0] * self._real
        return torch.zeros_like(right).scatter(1, self._columns, solved)


def chunks(count: int, size: int, memory: int = 2**28) -> Iterator[slice]:
    """Slices of `count` rows of `size` bytes that fit into memory, at least one row each."""
    step = max(1, memory // max(1, size))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
