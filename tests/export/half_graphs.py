"""Small graphs for the tests of the half types, and what they look at."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.engines import built

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
BFLOAT = onnx.TensorProto.BFLOAT16
PICTURES = np.random.default_rng(0).random((2, 3, 6, 8), dtype=np.float32)


def graph(body: str, constants: str = "") -> ir.Model:
    """A graph from the text of its nodes, with all values typed."""
    ends = "(float[n, 3, h, w] input) => (float[n, 3, i, j] output)"
    text = f'<ir_version: 10, opset_import: ["": 18]> net {ends} <{constants}> {{ {body} }}'
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def convert(
    model: ir.Model, precision: HalfPrecision = "fp16", keep: Collection[str] = ()
) -> onnx.ModelProto:
    """The half form, checked for consistent types."""
    proto = ir.to_proto(Half(precision, keep)(model).model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def words(text: str) -> list[str]:
    return text.split()


def initializer_types(proto: onnx.ModelProto) -> dict[str, int]:
    return {item.name: item.data_type for item in proto.graph.initializer}


def run(model: ir.Model | onnx.ModelProto) -> np.ndarray:
    content = to_bytes(model) if isinstance(model, ir.Model) else model.SerializeToString()
    return OnnxRunner(content).run(PICTURES)


def build(proto: onnx.ModelProto, folder: Path, least: int = 32, most: int = 32) -> Path:
    """Build an engine with TensorRT for RTX, which takes fp32; return its plan."""
    plan = folder / "engine.plan"
    small, large = ((1, 3, side, side) for side in (least, most))
    answer = built(proto.SerializeToString(), plan, small, small, large)
    assert answer.outputs[0].dtype == "FLOAT"
    return plan


SCALED = (
    "big = Mul (input, white) act = Relu (big) sum = Add (act, shift) output = Div (sum, white)",
    "float white = {255}, float[1] shift = {1.5}",
)

LAYERS = (
    """
        [first] a = Conv <pads = [1, 1, 1, 1]> (input, weight) [act] b = Relu (a)
        [second] c = Conv <pads = [1, 1, 1, 1]> (b, weight) [sum] d = Add (c, b)
        [third] output = Conv <pads = [1, 1, 1, 1]> (d, weight)
    """,
    "float[3, 3, 3, 3] weight = {" + ", ".join(["0.1"] * 81) + "}",
)
