"""What pruning one layer, or narrowing one interior, does to the network's output.

For a small change of weights the output moves by J dw. Its mean square is estimated from gradients:
for a cotangent of random signs r, E[(r' J dw)^2] = |J dw|^2 (Hutchinson, 1990), and one backward
pass gives r' J for all layers and all their changes at once. So hundreds of cases cost what a few
hundred training steps on single crops do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.models.model import RestorationModel
from sls_deploy.search.interiors import Interior
from sls_deploy.search.solve_layers import solvable
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import KINDS, Trace, Walk, trace
from sls_deploy.sizes import padded_side
from sls_deploy.sparsity.least_squares import Problem
from sls_deploy.sparsity.obs import remove_units
from sls_deploy.sparsity.pattern import Pattern

_SIDE = 32
"""Side of the crops of the backward passes, in pixels."""
Change = dict[str, Tensor]
"""Difference to the dense weights, by parameter name."""


@dataclass(frozen=True)
class Sensitivity:
    """Mean squared error of the output, 0..1, that each single change leaves."""

    layers: Mapping[str, Mapping[int, float]]
    """By layer and units kept; 0 where all are."""
    interiors: Mapping[Interior, Mapping[int, float]]
    """By interior and channels kept."""
    channels: Mapping[Interior, Tensor]
    """Channels of each interior, the most important first."""
    metric: Mapping[str, Tensor]
    """By layer, second moments of the output's gradients at what the layer gives, summed over its
    uses: float64, [filters, filters]. See `refit_together`."""


def measure_sensitivity(
    graph: Trace,
    model: RestorationModel,
    layers: Collection[str],
    pattern: Pattern,
    interiors: Sequence[Interior],
    multiple: int,
    calibration: Calibration,
    passes: int,
    report: Callable[[int], None] = lambda _: None,
) -> Sensitivity:
    """Prune every layer and interior alone to every level, corrected, and weigh what that changes.

    Args:
        graph: operations of the network.
        model: the dense network.
        layers: the prunable layers.
        pattern: what their units are.
        interiors: channels that may be dropped.
        multiple: step of the widths tried.
        calibration: pictures and memory.
        passes: backward passes of all processes, each on a part of one picture.
        report: called with the number of layers and passes done.
    """
    changes: dict[tuple[str, int], Change] = {}
    ranked: dict[Interior, Tensor] = {}
    consumed = {name: interior for interior in interiors for name in interior.consumers}
    waiting: dict[str, Tensor] = {}
    narrowed: dict[tuple[Interior, int], Change] = {}
    with torch.no_grad():
        for number, (name, hessian) in enumerate(dense_sums(graph, model, layers, calibration)):
            report(number)
            weight = model.network.get_parameter(f"{name}.weight").detach()
            with solvable(name):
                layout = graph.layout(name)
                filters = layout.filters(weight)
                levels = _levels(filters, hessian, pattern, calibration.memory // 2)
            for units, pruned in levels:
                changed = layout.weight((pruned - filters).float(), weight.shape)
                changes[name, units] = {f"{name}.weight": changed}
            interior = consumed.get(name)
            if interior is None:
                continue
            waiting[name] = hessian[0]
            if waiting.keys() >= set(interior.consumers):
                sums = {consumer: waiting.pop(consumer) for consumer in interior.consumers}
                ranked[interior] = _rank(model, interior, sums)
                for width in range(multiple, interior.channels, multiple):
                    kept = ranked[interior][:width].sort().values
                    narrowed[interior, width] = _narrowed(model, interior, sums, kept)
    every = [*changes.values(), *narrowed.values()]
    losses, metric = _gradients(graph, model, layers, every, calibration, passes, report)
    by_layer: dict[str, dict[int, float]] = {name: {pattern.units: 0.0} for name in layers}
    for (name, units), loss in zip(changes, losses, strict=False):
        by_layer[name][units] = loss
    by_interior: dict[Interior, dict[int, float]] = {item: {item.channels: 0.0} for item in ranked}
    for (interior, width), loss in zip(narrowed, losses[len(changes) :], strict=True):
        by_interior[interior][width] = loss
    return Sensitivity(by_layer, by_interior, ranked, metric)


def output_metric(
    graph: Trace,
    model: RestorationModel,
    layers: Collection[str],
    calibration: Calibration,
    passes: int,
) -> dict[str, Tensor]:
    """`Sensitivity.metric` alone."""
    return _gradients(graph, model, layers, [], calibration, passes, lambda _: None)[1]


def _levels(
    weight: Tensor, hessian: Tensor, pattern: Pattern, memory: int
) -> list[tuple[int, Tensor]]:
    """A layer's corrected filters at every level that a search can end with."""
    steps = []
    for part, sums in zip(weight.chunk(len(hessian)), hessian, strict=True):
        problem = Problem.of(part, sums, part.flatten(1).double() @ sums)
        removed = list(remove_units(problem, pattern, 1, memory))
        steps.append([step for step in removed if (step.units - 1) % pattern.stride == 0])
    return [
        (same[0].units, torch.cat([step.weight for step in same]).view(weight.shape))
        for same in zip(*steps, strict=True)
    ]


def _rank(model: RestorationModel, interior: Interior, sums: Mapping[str, Tensor]) -> Tensor:
    """Channels by what they contribute to their consumers: energy of input times weight."""
    worth = torch.zeros(interior.channels, dtype=torch.float64)
    for name in interior.consumers:
        weight = model.network.get_parameter(f"{name}.weight").detach().double().flatten(1)
        energy = sums[name].diagonal() * weight.square().sum(0)
        worth += energy.view(interior.channels, -1).sum(1)
    return worth.argsort(descending=True, stable=True)


def _narrowed(
    model: RestorationModel, interior: Interior, sums: Mapping[str, Tensor], kept: Tensor
) -> Change:
    """What the consumers' weights change by if only some channels are left, corrected."""
    change = {}
    for name in interior.consumers:
        weight = model.network.get_parameter(f"{name}.weight").detach()
        flat, hessian = weight.flatten(2), sums[name]
        taps = flat.shape[2]
        columns = (kept[:, None] * taps + torch.arange(taps)).flatten()
        target = flat.flatten(1).double() @ hessian[:, columns]
        problem = Problem.of(flat[:, kept], hessian[columns][:, columns], target)
        left = torch.zeros(flat.flatten(1).shape)
        left[:, columns] = problem.solve().float()
        change[f"{name}.weight"] = left.view(weight.shape) - weight
    return change


def _gradients(
    graph: Trace,
    model: RestorationModel,
    layers: Collection[str],
    changes: Sequence[Change],
    calibration: Calibration,
    passes: int,
    report: Callable[[int], None],
) -> tuple[list[float], dict[str, Tensor]]:
    """Mean square of what each change does to the output, and the metric of each layer.

    The changes are used up: they are large.
    """
    names = sorted({name for change in changes for name in change})
    parameters = [model.network.get_parameter(name) for name in names]
    rows = {name: [i for i, change in enumerate(changes) if name in change] for name in names}
    stacked = {
        name: torch.stack([changes[i].pop(name).flatten() for i in rows[name]]) for name in names
    }
    learnt = {parameter: parameter.requires_grad for parameter in model.network.parameters()}
    for parameter in learnt:
        parameter.requires_grad_(True)
    total = torch.zeros(len(changes), dtype=torch.float64)
    metric: dict[str, Tensor] = {}
    rank, world = calibration.share
    own = range(rank, passes, world)
    pictures = calibration.pictures
    side = _side(model, pictures.shape[-1])
    graph = graph.of(1) if graph.shape[2:] == (side, side) else trace(model, side)
    state = graph.state(model)
    with torch.enable_grad():
        for at, number in enumerate(own):
            report(len(rows) + number)
            generator = torch.Generator().manual_seed(number)
            part = _part(pictures[at % len(pictures)], side, generator)
            restored, given = _run(graph, state, part, layers)
            signs = torch.randint(0, 2, restored.shape, generator=generator) * 2 - 1
            scale = restored[0, 0].numel() * restored.shape[1]
            found = torch.autograd.grad(
                (restored * signs).sum() / scale**0.5,
                [*parameters, *(output for _, output in given)],
                materialize_grads=True,
            )
            moved = torch.zeros(len(changes), dtype=torch.float64)
            for name, gradient in zip(names, found, strict=False):
                moved[rows[name]] += (stacked[name] @ gradient.flatten()).double()
            total += moved.square()
            for (name, _), gradient in zip(given, found[len(names) :], strict=True):
                felt = _by_filter(KINDS[graph.uses[name][0].target], gradient)
                metric[name] = metric.get(name, 0) + felt @ felt.T
    for parameter, before in learnt.items():
        parameter.requires_grad_(before)
    losses = calibration.sum_over(total) / max(1, passes)
    return losses.tolist(), {name: calibration.sum_over(sums) for name, sums in metric.items()}


def _run(
    graph: Trace, state: Mapping[str, Tensor], picture: Tensor, layers: Collection[str]
) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """The restored picture, and what layers give on the way: [filters, ...], in order of use."""
    layer_of = {node: name for name in layers for node in graph.uses.get(name, ())}
    walk, given = Walk(graph, state, picture), []
    for node in graph.nodes:
        output = walk.step(node)
        if name := layer_of.get(node):
            given.append((name, output))
            walk.values[node.name] = output.clone()  # one in place would change what was kept
        walk.forget(node)
    return walk.values[graph.output.name], given


def _by_filter(node_kind: str, gradient: Tensor) -> Tensor:
    """A gradient at a layer's output as [filters, positions]."""
    return gradient.movedim(-1 if node_kind == "Linear" else 1, 0).flatten(1).double()


def _side(model: RestorationModel, largest: int) -> int:
    """Side of the crops of the backward passes, in pixels: one that the network takes."""
    about = model.description
    return min(largest, padded_side(_SIDE, about.least_side, about.multiple))


def _part(picture: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A random square of a picture, as a batch of one."""
    top, left = (
        int(torch.randint(0, size - side + 1, (1,), generator=generator))
        for size in picture.shape[1:]
    )
    return picture[None, :, top : top + side, left : left + side]
