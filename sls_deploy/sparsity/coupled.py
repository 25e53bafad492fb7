"""Correction of a layer's filters together, by what the network's output feels of their errors.

`Problem.refit` makes each filter's error small by itself. But errors of several filters can cancel
further on: with G the second moments of the output's gradients at the layer's output, the output
moves by about tr(G D H D'), D the error of the weights (Kronecker-factored curvature, Martens and
Grosse, ICML 2015). In narrow networks a few directions hold most of G.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sls_deploy.sparsity.least_squares import Problem, Systems

_ROUNDS = 60
_HELD = 3
"""Matrices of a filter's equations that are held while they are factored."""
_EXACT = 1e-24
"""Share of the first residual's squared length at which the weights are as good as exact."""
_ALONE = 0.01
"""Share of the mean of G's diagonal that is added to it: every filter also counts by itself."""


def refit_together(problem: Problem, keep: Tensor, metric: Tensor, memory: int) -> Tensor:
    """The weights that move the output least; zero where `keep` is false.

    Conjugate gradients from what `Problem.refit` gives, with the filters' own equations as the
    preconditioner. A layer whose equations do not fit into the memory is left at that start.

    Args:
        problem: what is to be reproduced.
        keep: bool of shape [filters, channels * taps].
        metric: G, [filters, filters], positive semidefinite.
        memory: bytes that the equations of all filters may take.

    Returns:
        float64 of the shape of `keep`.
    """
    if _HELD * len(keep) * Systems.size(keep) > memory:
        return problem.refit(keep)
    systems = Systems(problem.hessian, keep)
    weight = systems.solve(problem.target)
    metric = metric / metric.diagonal().mean().clamp_min(torch.finfo(metric.dtype).tiny)
    metric = metric + _ALONE * torch.eye(len(metric), dtype=metric.dtype)
    scale = metric.diagonal()[:, None]
    left = (metric @ (problem.target - weight @ problem.hessian)) * keep
    direction = nearest = systems.solve(left) / scale
    height = start = float((left * nearest).sum())
    for _ in range(_ROUNDS):
        if height <= _EXACT * start:
            break
        curved = (metric @ direction @ problem.hessian) * keep
        length = height / float((direction * curved).sum())
        weight += length * direction
        left -= length * curved
        nearest = systems.solve(left) / scale
        before, height = height, float((left * nearest).sum())
        direction = nearest + height / before * direction
    return weight
