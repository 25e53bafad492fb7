"""Makes ONNX Runtime round activations to fp16 or bf16, which it leaves out on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

_FLOAT = ir.DataType.FLOAT
_SPLITTERS: Mapping[ir.DataType, np.float32] = {
    ir.DataType.FLOAT16: np.float32(2**13 + 1),
    ir.DataType.BFLOAT16: np.float32(2**16 + 1),
}
"""Splits the 24 bits of a float32 significand into those of the type, 11 or 8, and a rest."""

# fmt: off
_EXACT = frozenset((
    "Abs", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Neg",
    "ReduceMax", "ReduceMin", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
))
# fmt: on
"""Operators that give numbers which they were given, or their negatives."""


class RoundedFloat32(ir.passes.InPlacePass):
    """Turn an fp16 or bf16 graph into an fp32 one that rounds as a GPU does which stores halves.

    ONNX Runtime's CPU provider computes most fp16 operators in fp32 and removes the casts between
    them, so that activations are never rounded (microsoft/onnxruntime 8787), and has no bf16
    convolution. Here arithmetic does the rounding: x is split as t - (t - x) with t = x * (2^13 +
    1), its upper half being x to nearest in 11 bits (Dekker, Numerische Mathematik 18, 1971); 2^16
    + 1 leaves the 8 bits of bf16. Ties go to even: so it was in all of 2^23 significands tried. For
    measuring only.

    1. Half initialisers become fp32 with the same, already rounded, values.
    2. Every half value becomes fp32 and is rounded where it is computed, unless the operator gives
       nothing but numbers that it was given.

    Operators that stay fp32 in the half graph are not rounded.

    Requires: a graph as `Half` leaves it, with magnitudes that the type can hold, and below 5e33
    in bf16: t overflows beyond.
    Ensures: no half is left. Magnitudes below 2^-14 are rounded finer than fp16 does.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        graph = model.graph
        for value in graph.initializers.values():
            if value.dtype in _SPLITTERS and value.const_value is not None:
                array = value.const_value.numpy().astype(np.float32)
                value.const_value = ir.Tensor(array, name=value.name)
                value.type = ir.TensorType(_FLOAT)
        halves = [
            (node, value) for node in graph for value in node.outputs if value.dtype in _SPLITTERS
        ]
        splitters: dict[ir.DataType, ir.Value] = {}
        for node, value in halves:
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
            half = value.dtype
            value.type = ir.TensorType(_FLOAT)
            if half is not None and node.op_type not in _EXACT:
                if half not in splitters:
                    splitters[half] = _splitter(graph, half)
                _round(graph, node, value, splitters[half])
        return ir.passes.PassResult(model, modified=bool(halves))


def _splitter(graph: ir.Graph, half: ir.DataType) -> ir.Value:
    name = f"splitter.{half.name.lower()}"
    value = ir.Value(
        name=name,
        shape=ir.Shape(()),
        type=ir.TensorType(_FLOAT),
        const_value=ir.Tensor(np.array(_SPLITTERS[half]), name=name),
    )
    graph.register_initializer(value)
    return value


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, splitter: ir.Value) -> None:
    """Put the rounding of a value behind the node that computes it."""
    scaled = ir.node("Mul", [value, splitter], name=f"{value.name}.scaled")
    rest = ir.node("Sub", [scaled.outputs[0], value], name=f"{value.name}.rest")
    rounded = ir.node("Sub", [scaled.outputs[0], rest.outputs[0]])
    rounded.name = f"{value.name}.rounded"
    value.replace_all_uses_with(rounded.outputs[0])
    scaled.replace_input_with(0, value)
    rest.replace_input_with(1, value)
    for new in (scaled, rest, rounded):
        new.outputs[0].name = new.name
        new.outputs[0].shape, new.outputs[0].type = value.shape, ir.TensorType(_FLOAT)
    graph.insert_after(node, [scaled, rest, rounded])
