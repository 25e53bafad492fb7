"""The two half types, and which operators have a form in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import onnx
import onnx_ir as ir

HalfPrecision = Literal["fp16", "bf16"]
"""fp16 has 11 bits and ends at 65504; bf16 has 8 bits and the range of fp32."""

LARGEST: Mapping[HalfPrecision, float] = {"fp16": 65504.0, "bf16": (2 - 2**-7) * 2.0**127}
"""Largest finite number of each type."""

TYPES: Mapping[HalfPrecision, ir.DataType] = {
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}
"""Each type in the graph's words."""

BFLOAT16_OPSET = 22
"""The first opset in which convolutions and pooling may be bf16 (ONNX, docs/Changelog.md)."""

FLOAT_SLOTS: Mapping[str, Collection[int]] = {"Resize": (1, 2)}
"""Inputs that stay float32 whatever the picture is: the roi (never read outside of
tf_crop_and_resize) and the scales of Resize."""

_ONNX_NAMES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
_UNBUILT = {
    "fp16": frozenset[str](),
    "bf16": frozenset({"ConvTranspose", "HardSwish", "LpNormalization", "Mish"}),
}
"""Operators that TensorRT for RTX 1.7 was seen to refuse in a type: at parsing, or, for bf16
ConvTranspose in all sizes and groups tried, at building."""


def has_form(node: ir.Node, precision: HalfPrecision, opset: int) -> bool:
    """Whether an operator may read and give floats of the half type, by ONNX and by TensorRT.

    Args:
        node: the operator.
        precision: the half type.
        opset: version of ONNX's operators.
    """
    return node.op_type not in _UNBUILT[precision] and _is_allowed(node, precision, opset)


def needed_opset(nodes: Collection[ir.Node], precision: HalfPrecision, opset: int) -> int:
    """The opset in which operators have a half form: the given one, or bf16's if that has more."""
    if precision == "fp16" or opset >= BFLOAT16_OPSET:
        return opset
    if all(_is_allowed(node, precision, opset) for node in nodes):
        return opset
    return BFLOAT16_OPSET


def _is_allowed(node: ir.Node, precision: HalfPrecision, opset: int) -> bool:
    if node.domain != "":
        return True
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }
    floats = (ir.DataType.FLOAT, TYPES[precision])
    kept = FLOAT_SLOTS.get(node.op_type, ())
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            if value is None or value.dtype not in floats:
                continue
            if values is node.inputs and index in kept:
                continue
            formal = formals[min(index, len(formals) - 1)].type_str  # the last may stand for many
            if _ONNX_NAMES[precision] not in allowed.get(formal, (formal,)):
                return False
    return True
