"""Second-order choice and correction of the weights that a layer keeps.

Removing weight q costs w_q^2 / (2 [H^-1]_qq) if all other weights are corrected (optimal brain
surgeon, Hassibi and Stork, NeurIPS 1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.sparsity.least_squares import Problem, chunks
from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.pattern import Pattern

_AT_ONCE = 8
"""Weights of different groups that a filter loses in one step."""
_COMPACT = 0.8
"""Share of the weights in an inverse Hessian below which the removed ones are left out of it."""


@dataclass(frozen=True)
class Step:
    """What is left after a unit was removed."""

    units: int
    """Units kept in every group."""
    keep: Tensor
    """Weights kept, bool of shape [filters, channels * taps]."""
    weight: Tensor
    """Corrected weights, float32 of the same shape; `Problem.refit` gives them exactly."""


def remove_units(
    problem: Problem, pattern: Pattern, least: int = 1, memory: int = 2**28
) -> Iterator[Step]:
    """Remove weights unit by unit, always the one that costs least after correction.

    In groups of more than four every quad loses two weights before any loses a third, so N <= M/2
    satisfies 2:4.

    Args:
        problem: what is to be reproduced.
        pattern: groups and units.
        least: units to keep at the end.
        memory: bytes that the inverse Hessians of the filters in work may take.

    Yields:
        What all but one unit leave, down to `least`.
    """
    _, channels, taps = problem.weight.shape
    slots = _Slots(channels, taps, pattern)
    factor = torch.linalg.cholesky(problem.hessian)
    dense = problem.solve().float()
    inverse = torch.cholesky_inverse(factor).float()
    levels = range(pattern.units - 1, least - 1, -1)
    parts = [
        _Surgeon(dense[rows], inverse, slots).run(levels)
        for rows in chunks(len(dense), inverse.numel() * 4, memory)
    ]
    if len(parts) > 1:  # one after the other: each holds inverses of its own
        parts = [iter(list(part)) for part in parts]
    for steps in zip(*parts, strict=True):
        keep, weight = (
            torch.cat([getattr(step, name) for step in steps]) for name in ("keep", "weight")
        )
        yield Step(steps[0].units, keep, weight)


class _Slots:
    """Where the weights of each group lie, and how many of them each number of units keeps."""

    def __init__(self, channels: int, taps: int, pattern: Pattern) -> None:
        size = pattern.group
        self.pattern = pattern
        padded = -channels % size
        channel = torch.arange(channels + padded).view(-1, size)
        real = channel < channels
        self.size, self.columns = size, channels * taps
        # Slots of the padding read the column after the last.
        column = channel[:, None, :] * taps + torch.arange(taps)[None, :, None]
        column = torch.where(real[:, None, :], column, torch.tensor(self.columns))
        self.column = column.reshape(-1, size)
        quads = real.view(len(real), -1, QUAD).sum(2)
        low = quads.clamp_max(QUAD // 2 if size > QUAD else QUAD).sum(1)
        self.low = low.repeat_interleave(taps)
        self.all = real.sum(1).repeat_interleave(taps)

    def kept(self, units: int) -> Tensor:
        """Weights that each group keeps, int64 of shape [groups]."""
        ranks = units + self.pattern.first - 1
        if self.size == QUAD:
            return self.all.clamp_max(ranks)
        half = self.size // 2
        return self.low.clamp_max(ranks) + (self.all - self.low).clamp_max(max(0, ranks - half))


class _Surgeon:
    """Some filters of a layer, each with an inverse Hessian of its own."""

    def __init__(self, weight: Tensor, inverse: Tensor, slots: _Slots) -> None:
        self.slots = slots
        self.weight = weight.clone()
        self.shared = inverse
        self.alive = torch.ones(weight.shape, dtype=torch.bool)

    def run(self, levels: range) -> Iterator[Step]:
        filters, size = self.weight.shape
        # The inverse holds the weights in `origin`; `place` says where each weight is in it.
        self.inverse = self.shared.expand(filters, -1, -1).clone()
        self.origin = torch.arange(size).repeat(filters, 1)
        self.place = self.origin.clone()
        before = self.slots.kept(levels.start + 1)
        for units in levels:
            after = self.slots.kept(units)
            self._remove(due=after < before)
            before = after
            yield Step(units, self.alive.clone(), self.weight.clone())
            self._compact(int(after.sum()))

    def _remove(self, due: Tensor) -> None:
        """Take one weight from each group that is due."""
        slots, filters = self.slots, len(self.weight)
        due = due.expand(filters, -1).clone()
        low = (slots.low < self._count()).expand(filters, -1)
        while left := int(due[0].sum()):
            price = self._prices()[:, slots.column]
            if slots.size > QUAD:
                full = self._quads() > QUAD // 2
                allowed = full.repeat_interleave(QUAD, dim=2) | ~low[:, :, None]
                price = price.masked_fill(~allowed, torch.inf)
            best, place = price.min(dim=2)
            chosen = best.masked_fill(~due, torch.inf).topk(min(_AT_ONCE, left), largest=False)
            groups = chosen.indices
            due.scatter_(1, groups, False)
            self._cut(slots.column[groups, place.gather(1, groups)])

    def _prices(self) -> Tensor:
        """What losing each weight costs; infinite for those that are gone and for the padding."""
        diagonal = self.inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
        price = torch.full((len(self.weight), self.slots.columns + 1), torch.inf)
        price.scatter_(1, self.origin, self.weight.gather(1, self.origin).square() / diagonal)
        price[:, :-1].masked_fill_(~self.alive, torch.inf)
        return price

    def _cut(self, columns: Tensor) -> None:
        """Set weights to zero, correct the others and leave the removed out of the inverse."""
        places = self.place.gather(1, columns)
        rows = self.inverse.gather(1, places[:, :, None].expand(-1, -1, self.inverse.shape[2]))
        corner = rows.gather(2, places[:, None, :].expand(-1, places.shape[1], -1))
        factor = torch.linalg.cholesky(corner)
        right = torch.cat([rows, self.weight.gather(1, columns)[:, :, None]], dim=2)
        solved = torch.linalg.solve_triangular(factor, right, upper=False)
        half, value = solved[:, :, :-1], solved[:, :, -1:]
        self.inverse.baddbmm_(half.transpose(1, 2), half, alpha=-1)
        correction = (half.transpose(1, 2) @ value)[:, :, 0]
        self.weight.scatter_add_(1, self.origin, -correction)
        self.alive.scatter_(1, columns, False)
        # Rounding moves those that were removed before as well.
        self.weight.mul_(self.alive)

    def _compact(self, left: int) -> None:
        """Leave removed weights out of the inverse once they are a fifth of it."""
        if left > _COMPACT * self.inverse.shape[1]:
            return
        held = self.alive.gather(1, self.origin).to(torch.uint8)
        order = held.argsort(dim=1, descending=True, stable=True)[:, :left]
        rows = self.inverse.gather(1, order[:, :, None].expand(-1, -1, self.inverse.shape[2]))
        self.inverse = rows.gather(2, order[:, None, :].expand(-1, left, -1)).contiguous()
        self.origin = self.origin.gather(1, order)
        self.place.scatter_(1, self.origin, torch.arange(left).expand(len(order), -1))

    def _padded(self) -> Tensor:
        return torch.nn.functional.pad(self.alive, (0, 1))[:, self.slots.column]

    def _quads(self) -> Tensor:
        alive = self._padded()
        return alive.view(*alive.shape[:2], -1, QUAD).sum(3)

    def _count(self) -> Tensor:
        return self._padded()[:1].sum(2)
