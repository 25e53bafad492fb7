"""Which layers of a graph int8 can compute, and what stands around them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from sls_deploy.export.passes.quantize import Slot
from sls_deploy.onnx_layers import WEIGHTED

_PASSED = ("Relu", "LeakyRelu", "PRelu", "Clip", "Concat", "MaxPool")
"""Activations that TensorRT computes in the kernel in front of them, and what it moves the pair
behind to the front of (seen of Concat in NVIDIA/TensorRT 2597)."""
_POINTWISE = ("Add", "Sub", "Mul", "Div", "Clip", "Identity", "Cast")
"""What may stand between a colour shift and the picture, with constants as other inputs."""


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
    of, and layers that none stands behind. A colour shift counts as no layer there and is never
    quantised: a 1x1 convolution that gives each colour its own factor and offset and mixes none,
    with nothing but scalings by constants between it and the picture. Networks subtract and add the
    training pictures' mean colour so (EDSR, CARN). Int8 there would round the picture itself.

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
    shifts = {node for node in nodes if _is_colour_shift(node)}
    first, last = _first(graph, nodes - shifts), _last(graph, nodes - shifts)
    layers = []
    for weight, same in uses.items():
        name = _name(weight, same[0])
        axes = {_axes(node) for node in same}
        reason = ""
        if shifts.issuperset(same):
            reason = "fixed colour shift"
        elif not ends and first.intersection(same):
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


def quantized_reads(
    graph: ir.Graph, layers: Sequence[WeightedLayer], chosen: Collection[str]
) -> dict[Slot, ir.Value]:
    """Where pairs of quantisers stand around int8 layers.

    Every int8 layer reads int8. So does an Add behind one, on its other side, if all that read the
    sum do: TensorRT computes it, and the activation behind, in the kernel of the convolution, which
    may then write int8; a pair between convolution and Add would part them (NVIDIA/Model-Optimizer,
    `build_non_residual_input_map`). Where two layers meet in an Add it belongs to the later one.
    There are no other pairs: what a Sigmoid or a Resize reads stays a float.

    Measured on RFDN x4, ranges by mse, Y-PSNR lost on Set5 and Set14: 0.194 and 0.127 dB with 62 of
    64 layers in int8, calibrated on 32 crops of one photograph; 0.136 and 0.102 with 3 of them
    kept for a limit of 0.05 dB on crops. With a pair behind every int8 layer and its activation
    instead, 0.241 and 0.167; 0.135 and 0.088 with 6 kept. With 32 crops of 8 photographs 0.241 and
    0.153 against 0.285 and 0.186; 0.158 and 0.099 with 5 kept against 0.210 and 0.118 with 4.
    With the other side of every Add behind an int8 layer in int8, whatever reads the sum, 1.15 and
    0.90: the last one holds the whole picture.

    Args:
        graph: the graph.
        layers: all layers that may be quantised.
        chosen: names of those that are. What fewer of them read in int8, more of them do too.

    Returns:
        The inputs of operators that are read in int8, and their tensors.
    """
    owners = {node: layer.name for layer in layers for node in layer.nodes}
    place = {node: index for index, node in enumerate(graph) if node in owners}
    reads: dict[Slot, ir.Value] = {}
    for node in reversed(graph):
        layer, index = (node, 0) if node in owners else _fused_layer(node, place)
        value = node.inputs[index] if layer and owners[layer] in chosen else None
        if value is not None and (layer is node or _is_read_in_int8(node.outputs[0], reads)):
            reads[node.name or "", index] = value
    return reads


def own_bias(layer: WeightedLayer) -> ir.Value | None:
    """The constant bias of a layer, if it has one that nothing else reads."""
    biases = {node.inputs[2] if len(node.inputs) > 2 else None for node in layer.nodes}
    bias = biases.pop()
    if biases or bias is None or bias.const_value is None:
        return None
    return bias if all(use.node in layer.nodes for use in bias.uses()) else None


def _weight(node: ir.Node) -> str | None:
    """Name of the constant weight of a layer whose input is computed."""
    if node.op_type not in WEIGHTED:
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


def _fused_layer(add: ir.Node, place: Mapping[ir.Node, int]) -> tuple[ir.Node | None, int]:
    """The layer whose kernel computes an Add, if there is one, and the input from elsewhere."""
    found: list[tuple[ir.Node, int]] = []
    if add.op_type == "Add":
        for index, (value, other) in enumerate(zip(add.inputs, reversed(add.inputs), strict=True)):
            layer = _backbone(value)
            computed = other is not None and other.producer() and other.const_value is None
            if layer is not None and layer in place and computed and _rank(other) == _rank(value):
                found.append((layer, 1 - index))
    return max(found, key=lambda pair: place[pair[0]], default=(None, 0))


def _is_read_in_int8(value: ir.Value, reads: Collection[Slot]) -> bool:
    """Whether all that read a value do so in int8, or pass it on to such as do."""
    return not value.is_graph_output() and all(
        (use.node.name, use.idx) in reads
        or (use.node.op_type in _PASSED and _is_read_in_int8(use.node.outputs[0], reads))
        for use in value.uses()
    )


def _backbone(value: ir.Value | None) -> ir.Node | None:
    """The operator behind a value that is read once, with scalings by constants between at most."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None or node.op_type != "Mul":
            return node
        value = _only_computed(node)
    return None


def _only_computed(node: ir.Node) -> ir.Value | None:
    """The one input of an operator that is no constant."""
    computed = [value for value in node.inputs if value is not None and value.const_value is None]
    return computed[0] if len(computed) == 1 else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _is_colour_shift(node: ir.Node) -> bool:
    weight = node.inputs[1]
    assert weight is not None  # noqa: S101 - layers have a weight
    assert weight.const_value is not None  # noqa: S101 - a constant one
    array = weight.const_value.numpy()
    if node.op_type != "Conv" or array.shape[2:] != (1, 1):
        return False
    if array.shape[1] != 1 and np.any(array[np.eye(*array.shape[:2]) == 0]):
        return False
    colours = node.attributes.get_int("group", 1) * array.shape[1]
    return colours == len(array) and (_reads_picture(node) or _gives_picture(node))


def _reads_picture(node: ir.Node) -> bool:
    value = node.inputs[0]
    while value is not None:
        producer = value.producer()
        if producer is None:
            return value.is_graph_input()
        value = _only_computed(producer) if producer.op_type in _POINTWISE else None
    return False


def _gives_picture(node: ir.Node) -> bool:
    value = node.outputs[0]
    while not value.is_graph_output():
        users = value.consumers()
        if len(users) != 1 or users[0].op_type not in _POINTWISE or not _only_computed(users[0]):
            return False
        value = users[0].outputs[0]
    return True


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
