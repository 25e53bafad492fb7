"""Sums over positions that describe what a layer's weights are multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.columns import Columns
from sls_deploy.search.trace import Trace, Walk, layout_of

_POSITIONS = 60_000
"""Output positions that a layer's sums are taken over, spread over all crops."""
_LEAST_CROPS = 8


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Calibration:
    """What reconstruction works with."""

    pictures: Tensor
    """Degraded crops, NCHW, 0..1."""
    memory: int
    """Bytes that the second-order work may take."""
    sum_over: Callable[[Tensor], Tensor] = _same
    """Adds up a tensor over processes, each with crops of its own."""
    share: tuple[int, int] = (0, 1)
    """(k, n): these are crops k, k + n, ... of all."""

    def within_memory(self, graph: Trace, model: RestorationModel, wanted: int) -> Calibration:
        """The same with as many crops as the memory holds.

        Args:
            graph: operations of the network.
            model: the network.
            wanted: crops of the largest share: all processes must decide alike.

        Raises:
            SlsError: it does not hold even a few; says how much it takes.
        """
        graph, most = graph.of(1), 0
        one = Walk(graph, graph.state(model), self.pictures[:1])
        with torch.no_grad():
            for node in graph.nodes:
                one.step(node)
                most = max(most, one.bytes_held)
                one.forget(node)
        # Half of it for the values of two networks; the other half for inverse Hessians.
        fitting = int(self.memory / 2 / (2 * most))
        if fitting < min(_LEAST_CROPS, wanted):
            needed = -(-_LEAST_CROPS * 4 * most // 2**20)
            what = f"{self.memory // 2**20} MiB do not hold the activations of {_LEAST_CROPS} crops"
            raise SlsError(what, "--memory", f"Give {needed} or more, or a smaller --patch.")
        return replace(self, pictures=self.pictures[:fitting])

    def sums(
        self, layer: str, node: fx.Node, arguments: tuple[Any, ...], output: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """X'X and X'Y of a layer over all processes; see `input_sums`.

        Raises:
            SlsError: its inputs or outputs are not finite.
        """
        own = input_sums(node, arguments, output, _POSITIONS, self.share)
        # Summed before they are looked at: all processes must see the same.
        sums = self.sum_over(own[0]), self.sum_over(own[1])
        if not all(bool(part.isfinite().all()) for part in sums):
            fix = "Check the weights of this layer and of those before it."
            raise SlsError("activations are NaN or infinite on the photographs", layer, fix)
        return sums


def dense_sums(
    graph: Trace,
    model: RestorationModel,
    layers: Collection[str],
    calibration: Calibration,
    *,
    later_uses: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """X'X of layers in the dense network, one after the other, so that few are held.

    Args:
        graph: operations of the network.
        model: the dense network.
        layers: those wanted.
        calibration: pictures.
        later_uses: leave out the first use of each layer; those used once are not given.

    Yields:
        A layer and its sums over its uses, float64 of shape [groups, K, K].
    """
    graph = graph.of(len(calibration.pictures))
    wanted = {
        name: graph.uses[name][later_uses:]
        for name in layers
        if len(graph.uses.get(name, ())) > later_uses
    }
    layer_of = {node: name for name, nodes in wanted.items() for node in nodes}
    found: dict[str, Tensor] = {}
    walk = Walk(graph, graph.state(model), calibration.pictures)
    for node in graph.nodes if wanted else ():
        if name := layer_of.get(node):
            hessian, _ = calibration.sums(name, node, walk.arguments(node))
            found[name] = found[name] + hessian if name in found else hessian
            if node is wanted[name][-1]:
                yield name, found.pop(name)
        walk.step(node)
        walk.forget(node)


def input_sums(
    node: fx.Node,
    arguments: tuple[Any, ...],
    output: Tensor | None,
    positions: int,
    share: tuple[int, int] = (0, 1),
) -> tuple[Tensor, Tensor]:
    """X'X and X'Y of a layer over sampled positions.

    Args:
        node: the convolution or linear layer.
        arguments: what it is called with.
        output: Y that it should give, bias included; None where only X'X is wanted.
        positions: about how many positions to take, spread evenly, in all shares together.
        share: (k, n): the pictures are k, k + n, ... of all.

    Returns:
        float64 of shapes [groups, K, K] and [groups, filters, K], K = channels * taps of a group.
    """
    columns, layout = Columns.of(node, arguments), layout_of(node)
    filters = layout.filters(arguments[1])
    size, per_group = filters[0].numel(), len(filters) // layout.groups
    hessian = torch.zeros(layout.groups, size, size, dtype=torch.float64)
    target = torch.zeros(layout.groups, per_group, size, dtype=torch.float64)
    bias = arguments[2] if len(arguments) > 2 else None
    wanted = None if output is None else columns.outputs(output, bias)
    every = max(1, columns.pictures * share[1] * columns.spots // positions)
    for at in range(columns.pictures):
        # The offset differs from picture to picture: no fixed lattice of places.
        first = (share[0] + at * share[1]) * 7 % every
        taken = columns.inputs(at, every, first)
        hessian += (taken @ taken.transpose(1, 2)).double()
        if wanted is not None:
            target += (wanted[at, :, :, first::every] @ taken.transpose(1, 2)).double()
    return hessian, target
