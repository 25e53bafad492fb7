"""Pruned weights that give back what the dense network does, layer after layer, with no training.

Each layer's weights are chosen and corrected (`sparsity/obs.py`) on inputs from the network as it
is pruned so far, so that its output is that of the dense network: that also corrects what the
layers before it left wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.models.model import RestorationModel
from sls_deploy.search.interiors import Interior
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import Trace, Walk
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


@torch.no_grad()
def reconstruct(
    graph: Trace,
    model: RestorationModel,
    pattern: Pattern,
    choice: Choice,
    calibration: Calibration,
    report: Callable[[str], None] = lambda _: None,
    metric: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Prune and correct a dense network.

    A layer that is used several times is solved at its first use, on pruned inputs there and
    dense ones elsewhere. A narrowed layer keeps its shape; what it loses is zero.

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
    first = {graph.uses[name][0]: name for name in choice.units if name in graph.uses}
    later = dict(dense_sums(graph, model, choice.units.keys(), calibration, later_uses=True))
    state = graph.state(model)
    dense, pruned = (Walk(graph, state, calibration.pictures) for _ in range(2))
    results = {}
    for node in graph.nodes:
        output = dense.step(node)
        if name := first.get(node):
            report(name)
            arguments = pruned.arguments(node)
            weight = arguments[1]
            hessian, target = calibration.sums(name, arguments, output)
            if name in later:
                groups = weight.double().view(len(hessian), -1, hessian.shape[-1])
                hessian, target = hessian + later[name], target + groups @ later[name]
            felt = _blocks(None if metric is None else metric[name], len(hessian))
            parts = [
                prune_group(part, h, t, g, pattern, choice, name, calibration.memory // 2)
                for part, h, t, g in zip(
                    weight.chunk(len(hessian)), hessian, target, felt, strict=True
                )
            ]
            solved = torch.cat(parts).to(weight.dtype)
            pruned.replace(node.args[1], solved)
            results[f"{name}.weight"] = solved
        pruned.step(node)
        dense.forget(node)
        pruned.forget(node)
    return results


def prune_group(
    weight: Tensor,
    hessian: Tensor,
    target: Tensor,
    metric: Tensor | None,
    pattern: Pattern,
    choice: Choice,
    layer: str,
    memory: int,
) -> Tensor:
    """Prune and correct one convolution group.

    Args:
        weight: dense, [filters, channels, *kernel].
        hessian: X'X, [channels * taps, channels * taps].
        target: X'Y, [filters, channels * taps].
        metric: what the output feels of its filters, [filters, filters].
        pattern: what the units are.
        choice: how much of each layer is kept.
        layer: which layer this is.
        memory: bytes for inverse Hessians.

    Returns:
        float64 of the shape of `weight`.
    """
    flat = weight.flatten(2)
    outputs = _indices(choice.channels(layer, "producers"), flat.shape[0])
    inputs = _indices(choice.channels(layer, "consumers"), flat.shape[1])
    columns = (inputs[:, None] * flat.shape[2] + torch.arange(flat.shape[2])).flatten()
    problem = Problem.of(
        flat[outputs][:, inputs], hessian[columns][:, columns], target[outputs][:, columns]
    )
    units = choice.units[layer]
    if units == pattern.units:
        solved = problem.solve()
    else:
        *_, last = remove_units(problem, pattern, units, memory)
        if metric is None:
            solved = problem.refit(last.keep)
        else:
            solved = refit_together(problem, last.keep, metric[outputs][:, outputs], memory)
    result = torch.zeros(flat.flatten(1).shape, dtype=torch.float64)
    result[outputs[:, None], columns] = solved
    return result.view(weight.shape)


def _blocks(metric: Tensor | None, groups: int) -> Sequence[Tensor | None]:
    """The part of a layer's metric that belongs to each convolution group."""
    if metric is None:
        return [None] * groups
    size = len(metric) // groups
    return [metric[at : at + size, at : at + size] for at in range(0, len(metric), size)]


def _indices(kept: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if kept is None else kept
