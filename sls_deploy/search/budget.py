"""Costs of what is kept, and landing on a budget."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from sls_deploy.errors import SlsError
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.pattern import Pattern

ROUNDING = 1e-9
"""What sums of shares may miss by, so that a budget which is met exactly counts as met."""


def unit_costs(layers: list[Layer], pattern: Pattern) -> Tensor:
    """Cost of each unit as a share of the dense cost of all prunable layers.

    Args:
        layers: the prunable layers.
        pattern: what their units are.

    Returns:
        float64 of shape [layers, units], sum 1.
    """
    total = sum(layer.macs for layer in layers)
    return torch.stack(
        [pattern.unit_shares(layer.shape[1]) * layer.macs / total for layer in layers]
    )


def least_cost(costs: Tensor) -> float:
    """The lowest cost that can be reached: the first unit of every layer."""
    return float(costs[:, 0].sum())


def land(products: Tensor, costs: Tensor, budget: float, stride: int = 1) -> Tensor:
    """Choose how many units each layer keeps so that the cost ends just below the budget.

    When many layers cross the threshold in one step, the cost jumps past the budget. So the
    crossings are put in order: starting from nothing but the first units, the units whose
    products of scores are highest come back first, as long as they fit.

    Args:
        products: cumulative products of the scores, shape [layers, units - 1].
        costs: from `unit_costs`, shape [layers, units].
        budget: most that may be kept, as a share of dense.
        stride: units that come back together, ordered by the mean of their products.

    Returns:
        int64 of shape [layers]: units kept, a prefix of each layer's ranking.
    """
    counts = torch.ones(len(costs), dtype=torch.int64)
    left = budget + ROUNDING - least_cost(costs)
    # Products may rise again along a layer; a prefix can only be as good as its worst unit.
    falling = products.detach().double().cummin(dim=1).values
    values = falling.view(len(costs), -1, stride).mean(2).tolist()
    prices = costs[:, 1:].reshape(len(costs), -1, stride).sum(2).tolist()
    heap = [(-row[0], layer, 0) for layer, row in enumerate(values)]
    heapq.heapify(heap)
    while heap:
        _, layer, place = heapq.heappop(heap)
        if prices[layer][place] > left:
            continue
        left -= prices[layer][place]
        counts[layer] += stride
        if place + 1 < len(values[layer]):
            heapq.heappush(heap, (-values[layer][place + 1], layer, place + 1))
    return counts


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
        fix = f"Ask for {least:.4g} or more, or use a pattern with a larger M."
        raise SlsError(f"{budget:g} is below what pattern {pattern} can reach", "--budget", fix)
