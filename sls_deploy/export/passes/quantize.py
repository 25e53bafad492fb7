"""Writes int8 layers into a graph, as explicit quantisation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.version_converter import ConvertVersionPass

from sls_deploy.errors import SlsError

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


class Quantize(ir.passes.InPlacePass):
    """Let layers compute in int8 between floats of the graph's own precision.

    1. A weight becomes the int8 initialiser of the same name, with its steps in 'NAME.scale'; a
       DequantizeLinear stands in front of its readers.
    2. The input of such a layer goes through one pair of QuantizeLinear and DequantizeLinear, which
       all such layers that read the tensor share; other readers get it as it was.
    3. What an output quantiser is asked for goes through a pair for all of its readers, so that the
       kernel in front of it may write int8; but not for a Concat that has a pair behind it, since
       TensorRT moves that pair to the front (seen in NVIDIA/TensorRT 2597).
    4. A bias stays a float, corrected where that is asked for.
    5. Graphs are raised to opset 19.

    `Half` comes first: behind this pass it would take the weights, which do not depend on the
    picture, for floats to cast, and a Cast would part DequantizeLinear and Conv.

    Measured with fp16 steps at opset 19: ONNX's checker takes them and refuses them at 18; ONNX
    Runtime computes them on the CPU, in fp32 inside; TensorRT for RTX 1.7 builds them for SM86 and
    says that it turns the steps of activations and weights into fp32. Weights need no zero point,
    activations do, or they would be uint8.

    ONNX Runtime 1.32 has two faults of its own with fp16 pairs, both in what it does to them when
    it loads a file. It cannot load a Concat with pairs on all sides; rule 3 leaves none. And where
    a pair follows a convolution at once, it turns the bias into int32 through fp16, which overflows
    if the bias is 65504 products of both steps or more: such files need the session's option
    'session.disable_quant_qdq', with which it computes just what the graph says.

    NVIDIA on explicit quantisation: a convolution and its activation become one int8 kernel if the
    pairs stand in front of the convolution and behind the activation (NVIDIA/TensorRT 2134), and
    sparse int8 kernels want int8 in and out (NVIDIA/Model-Optimizer 1664; without, none was chosen
    in NVIDIA/TensorRT 4694). Biases are not quantised.

    Requires: initialisers as weights, unique names of nodes.
    Ensures: names of nodes, weights and tensors stay; a zero weight is the integer zero.

    Args:
        weights: the layers.
        inputs: the step of the input of every operator that reads such a weight, by its name.
        outputs: the steps of what is quantised for all its readers, by the operator's name.

    Raises:
        SlsError: an operator or a weight is not there.
    """

    def __init__(
        self,
        weights: Sequence[Int8Weight],
        inputs: Mapping[str, float],
        outputs: Mapping[str, float],
    ) -> None:
        super().__init__()
        self._weights, self._inputs, self._outputs = weights, inputs, outputs

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantise in place."""
        if not self._weights:
            return ir.passes.PassResult(model, modified=False)
        if model.graph.opset_imports[""] < OPSET:
            ConvertVersionPass(OPSET)(model)
        graph = model.graph
        nodes = {node.name: node for node in graph}
        asked = {*self._outputs, *(name for weight in self._weights for name in weight.nodes)}
        if lost := sorted(asked - nodes.keys()):
            raise SlsError("is no operator of the graph, to quantise", lost[0])
        pairs = _Pairs(graph)
        for weight in self._weights:
            readers = [nodes[name] for name in weight.nodes]
            _replace_weight(graph, weight, readers)
            for node in readers:
                value = node.inputs[0]
                assert value is not None  # noqa: S101 - layers have an input
                node.replace_input_with(0, pairs.of(value, self._inputs[node.name or ""]))
        for name, scale in self._outputs.items():
            pairs.for_all_readers(nodes[name].outputs[0], scale)
        return ir.passes.PassResult(model, modified=True)


def _replace_weight(graph: ir.Graph, weight: Int8Weight, readers: Collection[ir.Node]) -> None:
    """Rules 1 and 4."""
    if weight.weight not in graph.initializers:
        raise SlsError("is no weight of the graph, to quantise", weight.weight)
    integers = _value(weight.weight, weight.integers)
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
    steps = _constant(graph, f"{weight.weight}.scale{suffix}", weight.scales.astype(dtype.numpy()))
    name = f"{weight.weight}.DequantizeLinear{suffix}"
    attributes = {"axis": weight.axis}
    node = _node("DequantizeLinear", [integers, steps], name, dtype, attributes)
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

    def for_all_readers(self, value: ir.Value, scale: float) -> None:
        """Rule 3."""
        uses = [use for use in value.uses() if not self._passes_on(use.node)]
        for use in uses:
            use.node.replace_input_with(use.idx, self.of(value, scale))

    def _passes_on(self, reader: ir.Node) -> bool:
        """Is it a pair, or a Concat in front of one?"""
        joined = reader.op_type == "Concat" and reader.outputs[0] in self._done
        return joined or reader.op_type == "QuantizeLinear"

    def _make(self, value: ir.Value, scale: float) -> ir.Value:
        dtype = _float_type(value)
        if self._zero is None:
            self._zero = _constant(self._graph, _ZERO, np.array(0, np.int8))
        quantize, dequantize = (f"{value.name}.{kind}Linear" for kind in ("Quantize", "Dequantize"))
        step = _constant(self._graph, f"{quantize}.scale", np.array(scale, dtype.numpy()))
        down = _node("QuantizeLinear", [value, step, self._zero], quantize, ir.DataType.INT8)
        up = _node("DequantizeLinear", [down.outputs[0], step, self._zero], dequantize, dtype)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [down, up])
        else:
            self._graph.insert_after(producer, [down, up])
        return up.outputs[0]


def _node(
    operator: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    attributes: Mapping[str, int] | None = None,
) -> ir.Node:
    """A node with one output of the first input's shape, both called `name`."""
    node = ir.node(operator, inputs, attributes, name=name)
    output = node.outputs[0]
    output.name, output.shape, output.type = name, inputs[0].shape, ir.TensorType(dtype)
    return node


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    value = _value(name, array)
    graph.register_initializer(value)
    return value


def _value(name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    return ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)


def _float_type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None  # noqa: S101 - values of our graphs are typed
    return value.dtype
