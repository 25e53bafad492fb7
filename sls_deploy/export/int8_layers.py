"""Which layers of a graph int8 can compute, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED = ("Relu", "LeakyRelu", "PRelu", "Clip")
"""Activations that TensorRT computes in the layer in front of them."""


@dataclass(frozen=True)
class WeightedLayer:
    """A weight and the operators that use it."""

    name: str
    """Name as in ratios.json."""
    weight: str
    """Name of the weight among the initialisers."""
    nodes: tuple[ir.Node, ...]
    """Operators that read it, in graph order; several if the layer is used again."""
    axis: int
    """Axis of the weight's output channels."""
    channel_axis: int
    """Axis of the channels in its input."""
    reason: str
    """Why it is not quantised; empty if it may be."""

    @property
    def groups(self) -> int:
        """Convolution groups."""
        return self.nodes[0].attributes.get_int("group", 1)


def weighted_layers(
    graph: ir.Graph, keep: Sequence[str] = (), *, ends: bool = False
) -> list[WeightedLayer]:
    """Find the convolutions and the products with constant weights.

    First and last are meant by the flow of the picture: layers that no other layer stands in front
    of, and layers that none stands behind.

    Args:
        graph: an fp32 graph with its weights as initialisers.
        keep: shell patterns of names of layers that are not to be quantised.
        ends: whether the first and the last layers may be quantised too.

    Returns:
        All of them, in graph order, with the reason if one is not to be quantised.
    """
    uses: dict[str, list[ir.Node]] = {}
    for node in graph:
        weight = _weight(node)
        if weight is not None:
            uses.setdefault(weight, []).append(node)
    nodes = {node for same in uses.values() for node in same}
    first, last = _first(graph, nodes), _last(graph, nodes)
    layers = []
    for weight, same in uses.items():
        name = _name(weight, same[0])
        axes = {_axes(node) for node in same}
        reason = ""
        if not ends and first.intersection(same):
            reason = "first layer"
        elif not ends and last.intersection(same):
            reason = "last layer"
        elif matching := [pattern for pattern in keep if fnmatchcase(name, pattern)]:
            reason = f"kept by '{matching[0]}'"
        elif len(axes) > 1 or _read_otherwise(graph.initializers[weight], same):
            reason = "its weight is used in different ways"
        axis, channel_axis = min(axes)
        layers.append(WeightedLayer(name, weight, tuple(same), axis, channel_axis, reason))
    return layers


def fused_output(node: ir.Node) -> ir.Value:
    """What a kernel writes that computes an operator and the activation behind it."""
    value = node.outputs[0]
    users = value.consumers()
    if len(users) == 1 and users[0].op_type in _FUSED and not value.is_graph_output():
        return users[0].outputs[0]
    return value


def own_bias(layer: WeightedLayer) -> ir.Value | None:
    """The constant bias of a layer, if it has one that nothing else reads."""
    biases = {node.inputs[2] if len(node.inputs) > 2 else None for node in layer.nodes}
    bias = biases.pop()
    if biases or bias is None or bias.const_value is None:
        return None
    return bias if all(use.node in layer.nodes for use in bias.uses()) else None


def _weight(node: ir.Node) -> str | None:
    """Name of the constant weight of a layer whose input is computed."""
    if node.op_type not in _WEIGHTED:
        return None
    data, weight = node.inputs[:2]
    if data is None or data.is_initializer() or weight is None or weight.const_value is None:
        return None
    turned = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0
    if turned or weight.const_value.shape.rank() < 2 or weight.dtype != ir.DataType.FLOAT:
        return None
    return weight.name


def _axes(node: ir.Node) -> tuple[int, int]:
    """Axis of the output channels in the weight, and of the input channels in the input."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(node.op_type == "ConvTranspose"), 1
    weight = node.inputs[1]
    assert weight is not None  # noqa: S101 - `_weight` found it
    assert weight.shape is not None  # noqa: S101 - initialisers have one
    return 0 if node.attributes.get_int("transB", 0) else weight.shape.rank() - 1, -1


def _name(weight: str, node: ir.Node) -> str:
    """The layer's name; the exporter turns the weights of some products and renames them."""
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    return (node.name or "").rpartition(".")[0] or weight


def _read_otherwise(weight: ir.Value, nodes: Iterable[ir.Node]) -> bool:
    return any(use.node not in nodes or use.idx != 1 for use in weight.uses())


def _first(graph: ir.Graph, layers: set[ir.Node]) -> set[ir.Node]:
    """Layers whose input is computed from the picture without another layer."""
    behind: set[ir.Value] = set()
    first = set()
    for node in graph:
        if node in layers and node.inputs[0] not in behind:
            first.add(node)
        if node in layers or any(value in behind for value in node.inputs):
            behind.update(node.outputs)
    return first


def _last(graph: ir.Graph, layers: set[ir.Node]) -> set[ir.Node]:
    """Layers whose output reaches the picture without another layer."""
    ahead: set[ir.Value | None] = set()
    last = set()
    for node in reversed(graph):
        if node in layers and node.outputs[0] not in ahead:
            last.add(node)
        if node in layers or any(value in ahead for value in node.outputs):
            ahead.update(node.inputs)
    return last
