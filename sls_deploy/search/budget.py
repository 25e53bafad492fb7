"""Costs of what is kept, and landing on a budget."""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor

from sls_deploy.errors import SlsError

ROUNDING = 1e-9
"""What sums of shares may miss by, so that a budget which is met exactly counts as met."""
_CELLS = 20_000
"""Cells that what is left of a budget is cut into to pack it."""
_SLACK = 1e-6
"""Share of a cell that a price may lie above a whole number of them."""


def least_cost(costs: Tensor) -> float:
    """The lowest cost that can be reached: the first unit of every layer."""
    return float(costs[:, 0].sum())


def above(share: float) -> float:
    """A share to four places, rounded up, so that asking for it is enough."""
    return math.ceil(share * 1e4 - 1e-6) / 1e4


def land(products: Tensor, costs: Tensor, budget: float, stride: int = 1) -> Tensor:
    """Choose how many units each layer keeps so that the cost ends just below the budget.

    When many layers cross the threshold in one step, the cost jumps past the budget. So all
    layers start from their first unit, and those units come back that keep the most cost weighted
    by the product of their scores: what crossed last comes back first, and what is left of the
    budget is filled.

    Args:
        products: cumulative products of the scores, shape [layers, units - 1].
        costs: from `unit_costs`, shape [layers, units].
        budget: most that may be kept, as a share of dense.
        stride: units that come back together.

    Returns:
        int64 of shape [layers]: units kept, a prefix of each layer's ranking.
    """
    left = budget + ROUNDING - least_cost(costs)
    layers = len(costs)
    # Products may rise again along a layer; a prefix can only be as good as its worst unit.
    falling = products.detach().double().cummin(dim=1).values
    values = falling.view(layers, -1, stride).mean(2)
    prices = costs[:, 1:].reshape(layers, -1, stride).sum(2)
    nothing = torch.zeros(layers, dtype=torch.int64)
    choices = [
        _fill(start, values, prices, left) for start in (nothing, _pack(values, prices, left))
    ]
    worth = (values * prices).cumsum(1)
    worth = torch.cat([torch.zeros(layers, 1, dtype=worth.dtype), worth], dim=1)
    best = max(choices, key=lambda steps: float(worth.gather(1, steps[:, None]).sum()))
    return 1 + best * stride


def _pack(values: Tensor, prices: Tensor, left: float) -> Tensor:
    """Steps of each layer that are worth the most and cost at most `left`: a knapsack.

    Prices are rounded up to a grid, so the result may leave a little of the budget.
    """
    grid = left / _CELLS
    if grid <= 0:
        return torch.zeros(len(prices), dtype=torch.int64)
    cells = (prices.cumsum(1) / grid - _SLACK).ceil().clamp_max(_CELLS + 1).long().tolist()
    worth = (values * prices).cumsum(1).tolist()
    best = torch.zeros(_CELLS + 1, dtype=torch.float64)
    taken = []
    for layer_cells, layer_worth in zip(cells, worth, strict=True):
        new, step = best.clone(), torch.zeros(_CELLS + 1, dtype=torch.int64)
        for index, (cell, gain) in enumerate(zip(layer_cells, layer_worth, strict=True)):
            if cell > _CELLS:
                break
            candidate = best[: _CELLS + 1 - cell] + gain
            better = candidate > new[cell:]
            new[cell:] = torch.where(better, candidate, new[cell:])
            step[cell:] = torch.where(better, index + 1, step[cell:])
        best = new
        taken.append(step)
    steps, cell = [], _CELLS
    for layer in reversed(range(len(prices))):
        steps.append(int(taken[layer][cell]))
        if steps[-1]:
            cell -= cells[layer][steps[-1] - 1]
    return torch.tensor(steps[::-1], dtype=torch.int64)


def _fill(steps: Tensor, values: Tensor, prices: Tensor, left: float) -> Tensor:
    """Add the steps with the highest values to those taken, as long as they fit."""
    steps = steps.clone()
    paid = torch.arange(prices.shape[1]) < steps[:, None]
    left -= float((prices * paid).sum())
    order, price = values.tolist(), prices.tolist()
    heap = [
        (-row[int(n)], i)
        for i, (row, n) in enumerate(zip(order, steps, strict=True))
        if n < len(row)
    ]
    heapq.heapify(heap)
    while heap:
        _, layer = heapq.heappop(heap)
        step = int(steps[layer])
        if price[layer][step] > left:
            continue
        left -= price[layer][step]
        steps[layer] += 1
        if step + 1 < len(order[layer]):
            heapq.heappush(heap, (-order[layer][step + 1], layer))
    return steps


def check_reachable(budget: float, costs: Tensor, pattern: str) -> None:
    """Refuse a budget that keeping the first unit of every layer exceeds.

    Args:
        budget: cost asked for, as a share of dense.
        costs: from `unit_costs`.
        pattern: as the user gave it.

    Raises:
        SlsError: the budget is too low; says what can be reached.
    """
    least = least_cost(costs)
    if budget < least - ROUNDING:
        other = "--method auto, which narrows" if pattern == "2:4" else "a pattern with a larger M"
        fix = f"Ask for {above(least):g} or more, or use {other}."
        if least >= 1 - ROUNDING:
            fix = f"By this cost model nothing is gained without {other}."
        raise SlsError(f"{budget:g} is below what pattern {pattern} can reach", "--budget", fix)
