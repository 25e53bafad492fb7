"""Writes int8 layers into a graph, as explicit quantisation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.version_converter import ConvertVersionPass

from sls_deploy.errors import SlsError
from sls_deploy.export.passes.values import add_constant, constant, typed_node

OPSET = 19
"""The first opset whose QuantizeLinear takes fp16 (ONNX, docs/Changelog.md)."""

_ZERO = "int8.zero"


@dataclass(frozen=True)
class Int8Weight:
    """The integers of one layer."""

    weight: str
    """Name of the weight among the initialisers."""
    nodes: tuple[str, ...]
    """Operators that read it."""
    axis: int
    """Axis of the output channels."""
    integers: NDArray[np.int8]
    """Of the weight's shape."""
    scales: NDArray[np.float16]
    """Step of each output channel."""
    bias: NDArray[np.float64] | None
    """The corrected bias; None to leave it as it is."""


Slot = tuple[str, int]
"""The name of an operator, and which of its inputs."""


class Quantize(ir.passes.InPlacePass):
    """Let layers compute in int8 between floats of the graph's own precision.

    1. A weight becomes the int8 initialiser of the same name, with its steps in 'NAME.scale'; a
       DequantizeLinear stands in front of its readers.
    2. What is to be read in int8 goes through one pair of QuantizeLinear and DequantizeLinear,
       which all such readers of the tensor share; others get the tensor as it was.
    3. A bias stays a float, corrected where that is asked for.
    4. Graphs are raised to opset 19.

    `Half` comes first: behind this pass it would take the weights, which do not depend on the
    picture, for floats to cast, and a Cast would part DequantizeLinear and Conv.

    Measured with fp16 steps at opset 19: ONNX's checker takes them and refuses them at 18; ONNX
    Runtime computes them on the CPU, in fp32 inside; TensorRT for RTX 1.7 builds them for SM86 and
    says that it turns the steps of activations and weights into fp32. Weights need no zero point,
    activations do, or they would be uint8.

    ONNX Runtime 1.32 has two faults of its own with fp16 pairs, both in what it does to them when
    it loads a file. It cannot load a Concat with pairs on all sides. And where a pair follows a
    convolution at once, it turns the bias into int32 through fp16, which overflows if the bias is
    65504 products of both steps or more: such files need the session's option
    'session.disable_quant_qdq', with which it computes just what the graph says.

    By NVIDIA's documents a kernel may write int8 if all that read it do so through pairs: a
    convolution and its activation become one int8 kernel (NVIDIA/TensorRT 2134), and sparse int8
    kernels want int8 in and out (NVIDIA/Model-Optimizer 1664; without, none was chosen in
    NVIDIA/TensorRT 4694). Biases are not quantised. That is not what TensorRT for RTX 1.7 was seen
    to do. By its own list of layers, for SM86, every int8 convolution reads int8 and writes floats;
    bias, activation and requantisation are kernels of their own, wherever the pairs stand; and
    plans grow: that of RFDN x4 has 8.7 MiB in int8 and 3.2 in fp16. Nothing here says that int8 is
    faster, and there it probably is not: measure.

    Requires: initialisers as weights, unique names of nodes.
    Ensures: names of nodes, weights and tensors stay; a zero weight is the integer zero.

    Args:
        weights: the layers.
        reads: what is read in int8, with the step of each.

    Raises:
        SlsError: an operator or a weight is not there.
    """

    def __init__(self, weights: Sequence[Int8Weight], reads: Mapping[Slot, float]) -> None:
        super().__init__()
        self.weights, self.reads = tuple(weights), reads

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantise in place."""
        if not self.weights:
            return ir.passes.PassResult(model, modified=False)
        if model.graph.opset_imports[""] < OPSET:
            ConvertVersionPass(OPSET)(model)
        graph = model.graph
        nodes = {node.name: node for node in graph}
        asked = {name for name, _ in self.reads}
        asked.update(name for weight in self.weights for name in weight.nodes)
        if lost := sorted(asked - nodes.keys()):
            raise SlsError("is no operator of the graph, to quantise", lost[0])
        for weight in self.weights:
            _replace_weight(graph, weight, [nodes[name] for name in weight.nodes])
        pairs = _Pairs(graph)
        for (name, index), step in self.reads.items():
            value = nodes[name].inputs[index]
            assert value is not None  # noqa: S101 - only what is there has a range
            nodes[name].replace_input_with(index, pairs.of(value, step))
        return ir.passes.PassResult(model, modified=True)


def _replace_weight(graph: ir.Graph, weight: Int8Weight, readers: Collection[ir.Node]) -> None:
    """Rules 1 and 3."""
    if weight.weight not in graph.initializers:
        raise SlsError("is no weight of the graph, to quantise", weight.weight)
    integers = constant(weight.weight, weight.integers)
    floats: dict[ir.DataType, ir.Value] = {}  # an operator kept in fp32 reads a weight of its own
    for node in readers:
        old = node.inputs[1]
        assert old is not None  # noqa: S101 - layers have a weight
        dtype = _float_type(old)
        if dtype not in floats:
            suffix = f".{dtype.name.lower()}" if floats else ""
            floats[dtype] = _dequantized_weight(graph, integers, weight, dtype, suffix)
        node.replace_input_with(1, floats[dtype])
        if not old.uses() and old.name is not None:
            del graph.initializers[old.name]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if weight.bias is not None and bias is not None:
            array = weight.bias.astype(_float_type(bias).numpy())
            bias.const_value = ir.Tensor(array, name=bias.name)
    graph.register_initializer(integers)


def _dequantized_weight(
    graph: ir.Graph, integers: ir.Value, weight: Int8Weight, dtype: ir.DataType, suffix: str
) -> ir.Value:
    steps = add_constant(
        graph, f"{weight.weight}.scale{suffix}", weight.scales.astype(dtype.numpy())
    )
    name = f"{weight.weight}.DequantizeLinear{suffix}"
    attributes = {"axis": weight.axis}
    shape = integers.shape
    node = typed_node("DequantizeLinear", [integers, steps], name, dtype, shape, attributes)
    graph.insert_before(graph[0], node)
    return node.outputs[0]


class _Pairs:
    """Makes the quantised form of a tensor once, and remembers it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._done: dict[ir.Value, ir.Value] = {}
        self._zero: ir.Value | None = None

    def of(self, value: ir.Value, scale: float) -> ir.Value:
        """Rule 2: the tensor behind its pair."""
        if value not in self._done:
            self._done[value] = self._make(value, scale)
        return self._done[value]

    def _make(self, value: ir.Value, scale: float) -> ir.Value:
        dtype = _float_type(value)
        if self._zero is None:
            self._zero = add_constant(self._graph, _ZERO, np.array(0, np.int8))
        quantize, dequantize = (f"{value.name}.{kind}Linear" for kind in ("Quantize", "Dequantize"))
        step = add_constant(self._graph, f"{quantize}.scale", np.array(scale, dtype.numpy()))
        shape, int8 = value.shape, ir.DataType.INT8
        down = typed_node("QuantizeLinear", [value, step, self._zero], quantize, int8, shape)
        given = [down.outputs[0], step, self._zero]
        up = typed_node("DequantizeLinear", given, dequantize, dtype, shape)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [down, up])
        else:
            self._graph.insert_after(producer, [down, up])
        return up.outputs[0]


def _float_type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None  # noqa: S101 - values of our graphs are typed
    return value.dtype
