"""Makes ONNX Runtime round activations to fp16 or bf16, which it leaves out on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sls_deploy.config import Precision
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.values import typed_node

_FLOAT = ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

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

    ONNX Runtime's CPU provider computes most fp16 operators in fp32 and removes the casts that it
    puts between them, so that activations are never rounded (microsoft/onnxruntime 8787), and has
    no bf16 convolution. Here every operator is fp32 and a Cast to the type and one back stand
    behind it. Measured with ONNX Runtime 1.32: it leaves those in, and they round to nearest, ties
    to even, to infinity beyond the type, and to its subnormals. For measuring only.

    1. Half initialisers become fp32 with the same, already rounded, values.
    2. Every half value becomes fp32 and is rounded where it is computed, unless the operator gives
       nothing but numbers that it was given.

    Operators that stay fp32 in the half graph are not rounded.

    Requires: a graph as `Half` leaves it.
    Ensures: nothing but Casts takes or gives a half.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        graph = model.graph
        for value in graph.initializers.values():
            if value.dtype in _HALVES and value.const_value is not None:
                array = value.const_value.numpy().astype(np.float32)
                value.const_value = ir.Tensor(array, name=value.name)
                value.type = ir.TensorType(_FLOAT)
        halves = [
            (node, value) for node in graph for value in node.outputs if value.dtype in _HALVES
        ]
        for node, value in halves:
            half = value.dtype
            value.type = ir.TensorType(_FLOAT)
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
            if half is not None and node.op_type not in _EXACT:
                _round(graph, node, value, half)
        return ir.passes.PassResult(model, modified=bool(halves))


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, half: ir.DataType) -> None:
    """Put the rounding of a value behind the node that computes it."""
    name, shape = value.name, value.shape
    down = typed_node("Cast", [value], f"{name}.half", half, shape, {"to": int(half)})
    given = [down.outputs[0]]
    up = typed_node("Cast", given, f"{name}.rounded", _FLOAT, shape, {"to": int(_FLOAT)})
    value.replace_all_uses_with(up.outputs[0])
    down.replace_input_with(0, value)
    graph.insert_after(node, [down, up])


def runnable(content: bytes, precision: Precision) -> bytes:
    """A graph that ONNX Runtime runs on the CPU: bf16, which it rejects, is rounded in fp32."""
    return rounded(content) if precision == "bf16" else content


def rounded(content: bytes) -> bytes:
    """The same graph in fp32 with every half value rounded, as a GPU stores it."""
    return to_bytes(RoundedFloat32()(ir.from_proto(onnx.load_from_string(content))).model)
