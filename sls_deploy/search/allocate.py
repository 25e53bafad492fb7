"""Choosing one option for each part of a network under a budget: a knapsack.

Solved exactly while few partial choices are undominated: a budget that fits without rest, as 0.5
does for 2:4 everywhere, must be met.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

_MOST = 4000
"""Partial choices that are held; of more, the best of each of as many equal steps of cost."""
_TIE = 1e-9
"""Costs that differ by less are equal; the budget may be passed by as much."""
What = TypeVar("What")


@dataclass(frozen=True)
class Option(Generic[What]):
    """One way to prune a part of the network."""

    what: What
    """What is chosen."""
    cost: float
    """Its cost, in the unit of the budget."""
    loss: float
    """What it does to the output: mean squared error."""


def allocate(parts: Sequence[Sequence[Option[What]]], budget: float) -> list[Option[What]] | None:
    """The options, one of each part, with the least sum of losses whose costs fit the budget.

    Args:
        parts: the options of each part of the network.
        budget: most that the chosen options may cost together.

    Returns:
        One option a part; None if even the cheapest do not fit.
    """
    parts = [undominated(options) for options in parts]
    if not all(parts):
        return None
    budget += _TIE
    rest = sum(options[-1].cost for options in parts)  # of the cheapest in the parts to come
    cost = loss = torch.zeros(1, dtype=torch.float64)
    steps: list[tuple[torch.Tensor, int]] = []
    for options in parts:
        rest -= options[-1].cost
        cost = cost[:, None] + torch.tensor([item.cost for item in options], dtype=torch.float64)
        loss = loss[:, None] + torch.tensor([item.loss for item in options], dtype=torch.float64)
        left = _frontier(cost.flatten(), loss.flatten(), budget - rest)
        cost, loss = cost.flatten()[left], loss.flatten()[left]
        steps.append((left, len(options)))
    if not len(cost):
        return None
    chosen, place = [], len(cost) - 1
    for options, (left, count) in zip(reversed(parts), reversed(steps), strict=True):
        place, number = divmod(int(left[place]), count)
        chosen.append(options[number])
    return chosen[::-1]


def _frontier(cost: torch.Tensor, loss: torch.Tensor, budget: float) -> torch.Tensor:
    """Indices of what fits the budget and is undominated, by rising cost and falling loss."""
    order = torch.argsort(loss, stable=True)
    order = order[(cost[order] / _TIE).round().argsort(stable=True)]
    order = order[cost[order] <= budget]
    if not len(order):
        return order
    least = loss[order].cummin(0).values
    order = order[torch.cat([torch.ones(1, dtype=torch.bool), least.diff() < 0])]
    if len(order) <= _MOST:
        return order
    # The best of each step of cost, and the cheapest of all, so that what can be reached stays so.
    step = ((cost[order] - cost[order[0]]) / (budget - cost[order[0]]) * _MOST).long()
    last = torch.cat([step.diff() > 0, torch.ones(1, dtype=torch.bool)])
    last[0] = True
    return order[last]


def undominated(options: Iterable[Option[What]]) -> list[Option[What]]:
    """Options that no other beats in both cost and loss, by falling cost: the cheapest is last."""
    kept: list[Option[What]] = []
    for option in sorted(options, key=lambda item: (item.cost, item.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return kept[::-1]
