"""Makes ONNX Runtime round activations to fp16, which it leaves out on the CPU."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_SPLITTER = np.float32(2**13 + 1)
"""Splits the 24 bits of a float32 significand into the 11 of fp16 and a rest."""


class RoundedFloat32(ir.passes.InPlacePass):
    """Turn an fp16 graph into an fp32 one that rounds as a GPU does which stores fp16.

    ONNX Runtime's CPU provider computes most fp16 operators in fp32 and removes the casts between
    them, so that activations are never rounded (microsoft/onnxruntime 8787). Here arithmetic does
    the rounding: x is split as t - (t - x) with t = x * (2^13 + 1), its upper half being x to
    nearest in 11 bits (Dekker, Numerische Mathematik 18, 1971). For measuring only.

    1. fp16 initialisers become fp32 with the same, already rounded, values.
    2. Every fp16 value becomes fp32 and is rounded where it is computed.

    Requires: a graph as `Float16` leaves it, with magnitudes that fp16 can hold.
    Ensures: no fp16 is left. Magnitudes below 2^-14 are rounded finer than fp16 does.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        graph = model.graph
        for value in graph.initializers.values():
            if value.dtype == _HALF and value.const_value is not None:
                array = value.const_value.numpy().astype(np.float32)
                value.const_value = ir.Tensor(array, name=value.name)
                value.type = ir.TensorType(_FLOAT)
        halves = [(node, value) for node in graph for value in node.outputs if value.dtype == _HALF]
        if not halves:
            return ir.passes.PassResult(model, modified=False)
        splitter = ir.Value(
            name="splitter",
            shape=ir.Shape(()),
            type=ir.TensorType(_FLOAT),
            const_value=ir.Tensor(np.array(_SPLITTER), name="splitter"),
        )
        graph.register_initializer(splitter)
        for node, value in halves:
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
            value.type = ir.TensorType(_FLOAT)
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
        return ir.passes.PassResult(model, modified=True)
