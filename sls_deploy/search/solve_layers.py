"""The dense and the pruned network walked side by side, to solve one layer after the other.

A layer gets its inputs from the network as it is solved so far and is to give the output of the
dense one: so it also corrects what the layers before it left wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import Trace, Walk, layout_of


@dataclass(frozen=True)
class Part:
    """One convolution group of a layer."""

    number: int
    """Which of the layer's groups."""
    weight: Tensor
    """As the pruned network has them: [filters, channels, taps]."""
    hessian: Tensor
    """X'X, float64, [channels * taps, channels * taps]."""
    target: Tensor
    """X'Y, float64, [filters, channels * taps]."""
    metric: Tensor | None
    """What the output feels of its filters, float64, [filters, filters]; see `Sensitivity`."""

    def of_group(self, tensor: Tensor) -> Tensor:
        """The rows of a layer's tensor that belong to this group."""
        size = len(self.weight)
        return tensor[self.number * size : (self.number + 1) * size]


@torch.no_grad()
def solve_layers(
    dense: tuple[Trace, RestorationModel],
    pruned: tuple[Trace, RestorationModel],
    layers: Collection[str],
    calibration: Calibration,
    solve: Callable[[str, Part], Tensor],
    report: Callable[[str], None] = lambda _: None,
    metric: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Solve layers in the order of their first use.

    A layer that is used several times is solved at its first use, on pruned inputs there and
    dense ones elsewhere.

    Args:
        dense: operations and weights of the dense network.
        pruned: those to start from, the same operations in the same order; it is not changed.
        layers: those to solve; both networks have them in the same shape.
        calibration: pictures and memory.
        solve: gives the weights of a layer's group, in the shape of `Part.weight`.
        report: called with the name of each layer before it is solved.
        metric: by layer, what the output feels of its filters.

    Returns:
        Weights by parameter name.

    Raises:
        SlsError: a layer's inputs are not finite.
    """
    count = len(calibration.pictures)
    graph, model = dense[0].of(count), dense[1]
    others = pruned[0].of(count)
    first = {graph.uses[name][0]: name for name in layers if name in graph.uses}
    later = dict(dense_sums(graph, model, layers, calibration, later_uses=True))
    walk, other = (
        Walk(operations, operations.state(weights), calibration.pictures)
        for operations, weights in ((graph, model), (others, pruned[1]))
    )
    results = {}
    for node, twin in zip(graph.nodes, others.nodes, strict=True):
        output = walk.step(node)
        if name := first.get(node):
            report(name)
            arguments = other.arguments(twin)
            layout, weight = layout_of(node), arguments[1]
            hessian, target = calibration.sums(name, twin, arguments, output)
            if name in later:
                whole = layout.filters(walk.arguments(node)[1])
                rows = whole.double().reshape(len(hessian), -1, hessian.shape[-1])
                hessian, target = hessian + later[name], target + rows @ later[name]
            felt = None if metric is None else metric.get(name)
            with solvable(name):
                filters = layout.filters(weight)
                parts = [solve(name, part) for part in _parts(filters, hessian, target, felt)]
            solved = layout.weight(torch.cat(parts).to(weight.dtype), weight.shape)
            other.replace(twin.args[1], solved)
            results[f"{name}.weight"] = solved
        other.step(twin)
        walk.forget(node)
        other.forget(twin)
    return results


@contextmanager
def solvable(layer: str) -> Iterator[None]:
    """Name the layer whose equations have no solution.

    Raises:
        SlsError: a factorisation failed inside.
    """
    try:
        yield
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        what = "its weights or inputs are too large or too small to be corrected in float32"
        fix = "Check the weights of this layer and of those before it."
        raise SlsError(what, layer, fix) from None


def _parts(weight: Tensor, hessian: Tensor, target: Tensor, metric: Tensor | None) -> list[Part]:
    size = len(weight) // len(hessian)
    rows = [slice(at, at + size) for at in range(0, len(weight), size)]
    return [
        Part(i, weight[own], h, t, None if metric is None else metric[own, own])
        for i, (own, h, t) in enumerate(zip(rows, hessian, target, strict=True))
    ]
