"""Pruned weights that give back what the dense network does, layer after layer, with no training.

Each layer's weights are chosen (`sparsity/obs.py`) and corrected (`sparsity/coupled.py`) on the
inputs and for the outputs that `solve_layers` brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.models.model import RestorationModel
from sls_deploy.search.interiors import Interior
from sls_deploy.search.solve_layers import Part, solve_layers
from sls_deploy.search.sums import Calibration
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.coupled import refit_together
from sls_deploy.sparsity.least_squares import Problem
from sls_deploy.sparsity.obs import remove_units
from sls_deploy.sparsity.pattern import Pattern


@dataclass(frozen=True)
class Choice:
    """How much of each layer is kept."""

    units: Mapping[str, int]
    """Units of the pattern by layer; all of them where the layer stays dense."""
    narrowed: tuple[tuple[Interior, Tensor], ...] = ()
    """Narrowed interiors, each with the channels that it keeps (int64, ascending)."""

    def channels(self, layer: str, end: str) -> Tensor | None:
        """Channels that a layer keeps at its 'producers' (output) or 'consumers' (input) end."""
        found = (kept for interior, kept in self.narrowed if layer in getattr(interior, end))
        return next(found, None)


def reconstruct(
    graph: Trace,
    model: RestorationModel,
    pattern: Pattern,
    choice: Choice,
    calibration: Calibration,
    report: Callable[[str], None] = lambda _: None,
    metric: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Prune and correct a dense network; a narrowed layer keeps its shape, what it loses is zero.

    Args:
        graph: operations of the network.
        model: the dense network; it is not changed.
        pattern: what the units are.
        choice: how much to keep of which layers; others are left as they are.
        calibration: pictures and memory.
        report: called with the name of each layer before it is solved.
        metric: what the output feels of each layer's errors, see `Sensitivity`; without it every
            filter is corrected by itself.

    Returns:
        Weights by parameter name in `model.network`.

    Raises:
        SlsError: a layer's inputs are not finite.
    """

    def solve(layer: str, part: Part) -> Tensor:
        return prune_group(part, pattern, choice, layer, calibration.memory // 2)

    both = (graph, model)
    return solve_layers(both, both, list(choice.units), calibration, solve, report, metric)


def refit(
    graph: Trace,
    model: RestorationModel,
    student: RestorationModel,
    masks: Mapping[str, Tensor],
    calibration: Calibration,
    metric: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Correct the weights that a pruned network keeps, from what they are; masks stay.

    Layers that were narrowed are left as they are.

    Args:
        graph: operations of the dense network.
        model: the dense network.
        student: the pruned one; it is not changed.
        masks: 0 or 1, by parameter name.
        calibration: pictures and memory.
        metric: what the output feels of each layer's errors, see `Sensitivity`.

    Returns:
        Weights by parameter name in `student.network`.
    """

    def solve(layer: str, part: Part) -> Tensor:
        mask = graph.layout(layer).filters(masks[f"{layer}.weight"])
        keep = part.of_group(mask).flatten(1) > 0
        problem = Problem.of(part.weight, part.hessian, part.target)
        return _corrected(problem, keep, part.metric, calibration.memory // 2).view(
            part.weight.shape
        )

    names = [
        name.removesuffix(".weight")
        for name, mask in masks.items()
        if mask.shape == model.network.get_parameter(name).shape
    ]
    count, side = len(calibration.pictures), calibration.pictures.shape[-1]
    pair = (trace(student, side, count), student)
    return solve_layers((graph, model), pair, names, calibration, solve, metric=metric)


def prune_group(part: Part, pattern: Pattern, choice: Choice, layer: str, memory: int) -> Tensor:
    """Prune and correct one convolution group.

    Args:
        part: its weights and sums.
        pattern: what the units are.
        choice: how much of each layer is kept.
        layer: which layer this is.
        memory: bytes for inverse Hessians.

    Returns:
        float64 of the shape of its weights.
    """
    flat = part.weight
    outputs = _indices(choice.channels(layer, "producers"), flat.shape[0])
    inputs = _indices(choice.channels(layer, "consumers"), flat.shape[1])
    columns = (inputs[:, None] * flat.shape[2] + torch.arange(flat.shape[2])).flatten()
    problem = Problem.of(
        flat[outputs][:, inputs],
        part.hessian[columns][:, columns],
        part.target[outputs][:, columns],
    )
    units = choice.units[layer]
    if units == pattern.units:
        solved = problem.solve()
    else:
        *_, last = remove_units(problem, pattern, units, memory)
        metric = None if part.metric is None else part.metric[outputs][:, outputs]
        solved = _corrected(problem, last.keep, metric, memory)
    result = torch.zeros(flat.flatten(1).shape, dtype=torch.float64)
    result[outputs[:, None], columns] = solved
    return result.view(part.weight.shape)


def _corrected(problem: Problem, keep: Tensor, metric: Tensor | None, memory: int) -> Tensor:
    if metric is None:
        return problem.refit(keep)
    return refit_together(problem, keep, metric, memory)


def _indices(kept: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if kept is None else kept
