"""Which layer of a network each weighted operator of a graph stands for, whoever named it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sls_deploy.export.torch_values import Layer, LayerCall
from sls_deploy.onnx_layers import WeightUse, weight_uses

_EQUAL = 0.03
"""Relative distance up to which weights are the same ones, rounded: int8 leaves about 0.01."""
_ALIKE = 0.9
"""The same up to which they are those of one layer, and damaged; of two layers it is near 1.4."""

_NORMALISATION = "BatchNormalization"


def pair_layers(model: onnx.ModelProto, calls: Sequence[LayerCall]) -> dict[str, LayerCall]:
    """Find the use of a layer that each weighted operator stands for.

    1. By name: the initialiser is called like the layer's parameter, with any prefix.
    2. By values: equal but for rounding, in whatever order of axes the operator stores them.
    3. Of what is left, the nearest, if most of its values are right.
    4. Then those of one shape in their order, if graph and network have as many of them.

    Layers of equal weights, and several uses of one, are told apart by their order; where a graph
    has more or fewer of them than the network, none is paired. Nor is an operator in front of a
    batch normalisation: in the network it may be folded into the layer.

    Args:
        model: the graph, with its weights inside.
        calls: the uses of the network's layers, in their order.

    Returns:
        Uses by the name of the value that the operator computes.
    """
    kinds, uses = _Kinds(calls), _uses(model)
    found: dict[str, int] = {}
    for output, (name, values) in uses.items():
        kind = kinds.named(name, values.shape)
        kind = kinds.nearest(values, _EQUAL) if kind is None else kind
        if kind is not None:
            found[output] = kind
    taken = set(found.values())
    for output, (_, values) in uses.items():
        if output not in found:
            kind = kinds.nearest(values, _ALIKE, taken)
            if kind is not None:
                found[output] = kind
    waiting = {output: item[1].shape for output, item in uses.items() if output not in found}
    for shape in set(waiting.values()):
        outputs = [output for output in waiting if waiting[output] == shape]
        left = [kind for kind in kinds.of(shape) if kind not in found.values()]
        if len(left) == len(outputs):
            found.update(zip(outputs, left, strict=True))
    ordered: dict[int, list[str]] = defaultdict(list)
    for output in uses:
        if output in found:
            ordered[found[output]].append(output)
    normalised = {node.input[0] for node in model.graph.node if node.op_type == _NORMALISATION}
    return {
        output: call
        for kind, outputs in ordered.items()
        if len(outputs) == len(kinds.calls[kind])
        for output, call in zip(outputs, kinds.calls[kind], strict=True)
        if output not in normalised
    }


def exact_layers(model: onnx.ModelProto, layers: Sequence[Layer]) -> int:
    """Number of a graph's weights that are a layer's but for rounding."""
    kinds = _Kinds([LayerCall(layer, 0) for layer in layers])
    values = [_values(use) for use in weight_uses(model) if use.weight is not None]
    return sum(kinds.nearest(item, _EQUAL) is not None for item in values)


class _Kinds:
    """Uses of layers, those with equal weights together."""

    def __init__(self, calls: Sequence[LayerCall]) -> None:
        self.calls: list[list[LayerCall]] = []
        numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
        self._names: dict[str, int] = {}
        for call in calls:
            filters = call.layer.filters
            number = numbers.setdefault((filters.shape, filters.tobytes()), len(numbers))
            if number == len(self.calls):
                self.calls.append([])
            self.calls[number].append(call)
            self._names[f"{call.layer.module}.weight"] = number

    def named(self, name: str, shape: tuple[int, ...]) -> int | None:
        """The kind whose parameter is called so, behind any prefix; the longest name counts."""
        found = [
            known
            for known in self._names
            if name == known or name.endswith((f".{known}", f"/{known}"))
        ]
        kind = self._names[max(found, key=len)] if found else None
        return kind if kind is not None and self._filters(kind).shape == shape else None

    def nearest(
        self, values: NDArray[Any], limit: float, without: set[int] | None = None
    ) -> int | None:
        """The kind whose weights lie nearest, relative to their size; None beyond the limit."""
        found = [
            (float(np.linalg.norm(values - filters) / norm), kind)
            for kind in self.of(values.shape)
            if kind not in (without or ())
            and (norm := np.linalg.norm(filters := self._filters(kind))) > 0
        ]
        distance, kind = min(found, default=(limit, -1))
        return kind if distance < limit else None

    def of(self, shape: tuple[int, ...]) -> list[int]:
        """The kinds of a shape, in the order of their first uses."""
        return [kind for kind in range(len(self.calls)) if self._filters(kind).shape == shape]

    def _filters(self, kind: int) -> NDArray[np.float32]:
        return self.calls[kind][0].layer.filters


def _uses(model: onnx.ModelProto) -> dict[str, tuple[str, NDArray[Any]]]:
    """Name and values of every weight, by the value that its operator computes."""
    names = [node.name or f"{node.op_type} {at}" for at, node in enumerate(model.graph.node)]
    outputs = dict(zip(names, (node.output[0] for node in model.graph.node), strict=True))
    once = {name for name, times in Counter(names).items() if times == 1}
    return {
        outputs[use.node]: (use.weight.name, _values(use))
        for use in weight_uses(model)
        if use.weight is not None and use.node in once
    }


def _values(use: WeightUse) -> NDArray[Any]:
    values = use.filters.astype(np.float32)
    return values if use.scales is None else values * use.scales.astype(np.float32)
