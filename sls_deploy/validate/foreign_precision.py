"""What an ONNX file of anyone's computes in, and what of it can run here."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from sls_deploy.config import Precision
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.export.stored_layers import stored_layers
from sls_deploy.onnx_weights import graphs

_LOWEST: tuple[Precision, ...] = ("int8", "bf16", "fp16")
_HALVES: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_INTEGER = frozenset(
    (
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    )
)
"""Operators that round to integers or compute with them."""


def lowest_precision(model: onnx.ModelProto) -> Precision:
    """The lowest precision of a file's layers, of its ends, or of its quantisers.

    Args:
        model: a sound one, as `read_model` gives it.
    """
    found = {layer.precision for layer in stored_layers(model)}
    for value in (*model.graph.input, *model.graph.output):
        found.add(_HALVES.get(value.type.tensor_type.elem_type, "fp32"))
    operators = {node.op_type for part in graphs(model.graph) for node in part.node}
    if operators & _INTEGER:
        found.add("int8")
    return next((precision for precision in _LOWEST if precision in found), "fp32")


def typed(content: bytes) -> bytes:
    """The same graph with the type of every value in it, and without constants among its nodes."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    lifted = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    return to_bytes(lifted(ir.from_proto(inferred)).model)


def runnable_here(content: bytes) -> bytes:
    """A graph that ONNX Runtime runs on the CPU: bf16, which it rejects, is rounded in fp32.

    Args:
        content: a graph from fp32 to fp32, whatever it computes in.
    """
    converted = ir.from_proto(onnx.load_model_from_string(typed(content)))
    values = [value for node in converted.graph.all_nodes() for value in node.outputs]
    kinds = {value.dtype for value in (*values, *converted.graph.initializers.values())}
    if ir.DataType.BFLOAT16 not in kinds:
        return content
    return to_bytes(RoundedFloat32()(converted).model)


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold weights of it.

    Args:
        path: a file that `read_model` accepts.
    """
    model = onnx.load_model_from_string(path.read_bytes())
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]
