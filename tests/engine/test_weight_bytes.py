from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.engine.evidence import LayerEvidence, gather_evidence
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.engine.weight_bytes import find_weight, rounded_to

SIZES = ((1, 3, 16, 16), (1, 3, 32, 32), (2, 3, 64, 64))
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def stored(weight: NDArray[Any], multiple: int = 2) -> bytes:
    krsc = np.moveaxis(weight, 1, -1)
    padding = [(0, 0)] * 3 + [(0, -krsc.shape[-1] % multiple)]
    return np.pad(krsc, padding).tobytes()


@pytest.mark.parametrize("channels", [1, 3, 7, 25, 50, 64])
def test_channels_filled_up_with_zeros_are_recognised(channels: int) -> None:
    weight = np.random.default_rng(0).standard_normal((8, channels, 3, 3)).astype(np.float16)
    for multiple in (1, 2, 4, 8):
        assert find_weight(weight, b"before" + stored(weight, multiple) + b"after")


@pytest.mark.parametrize(
    "weight",
    [
        np.zeros((16, 16, 3, 3), np.float16),
        np.full((16, 16, 3, 3), 0.25, np.float16),
        np.arange(15, dtype=np.float16).reshape(3, 5, 1, 1),
    ],
    ids=["zeros", "constant", "fifteen values"],
)
def test_weights_that_could_match_by_accident_are_not_judged(weight: NDArray[Any]) -> None:
    assert find_weight(weight, stored(weight)) is None


def test_a_matrix_is_found_as_it_is_and_turned_and_no_other_way() -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    wide = np.pad(matrix, [(0, 0), (0, 1)])
    for form in (matrix, matrix.T, wide):
        assert find_weight(matrix, b"before" + form.tobytes() + b"after", product=True)
    for form in (matrix[::-1], -matrix):
        assert find_weight(matrix, form.tobytes(), product=True) is False


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_weights_that_the_plan_holds_in_less_precision_are_told(kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32)
    lower = weight.astype(helper.tensor_dtype_to_np_dtype(TYPES[kind]))
    assert find_weight(weight, stored(lower)) is False
    assert rounded_to(weight, stored(lower)) == kind
    assert rounded_to(weight, b"other bytes") == ""
    assert rounded_to(lower, stored(lower)) == ""


def test_only_fp32_can_be_rounded() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float16)
    assert rounded_to(weight, stored(weight)) == ""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_engines_hold_every_kind_of_weight(precision: str, tmp_path: Path) -> None:
    layers = evidence_of(mixed_graph(precision), tmp_path, ("sm86",))
    assert [layer.operator for layer in layers] == [
        "Conv", "Conv", "ConvTranspose", "ConvTranspose", "MatMul", "Gemm",
    ]  # fmt: skip
    assert [layer.bytes_in_plan for layer in layers] == [True] * 6


def test_convolutions_and_products_are_found_in_bf16(tmp_path: Path) -> None:
    # TensorRT for RTX 1.7 refuses transposed convolutions in bf16.
    layers = evidence_of(mixed_graph("bf16", transposed=False), tmp_path, ("sm86",))
    assert [layer.bytes_in_plan for layer in layers] == [True] * 4


def test_an_engine_for_several_gpus_holds_each_weight(tmp_path: Path) -> None:
    layers = evidence_of(mixed_graph("fp16"), tmp_path, ("sm80", "sm86", "sm89"))
    assert [layer.bytes_in_plan for layer in layers] == [True] * 6


def test_with_turing_among_them_it_holds_all_but_groups(tmp_path: Path) -> None:
    layers = evidence_of(mixed_graph("fp16"), tmp_path, ("sm75", "sm86"))
    assert [layer.name for layer in layers if not layer.bytes_in_plan] == ["groups"]


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "MatMul"])
def test_int8_weights_are_found(operator: str, tmp_path: Path) -> None:
    (layer,) = evidence_of(int8_graph(operator), tmp_path, ("sm86",))
    assert (layer.operator, layer.precision, layer.bytes_in_plan) == (operator, "int8", True)


def evidence_of(
    model: onnx.ModelProto, folder: Path, targets: tuple[str, ...]
) -> tuple[LayerEvidence, ...]:
    """Build a graph for real and judge the engine."""
    path, plan = folder / "model.onnx", folder / "engine.plan"
    onnx.save(model, path)
    run_worker(BuildRequest("tensorrt_rtx", targets, str(path), str(plan), "input", *SIZES), 120)
    return gather_evidence(model, plan.read_bytes()).layers


def model_of(
    nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "network", [picture], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def mixed_graph(precision: str, *, transposed: bool = True) -> onnx.ModelProto:
    """Two convolutions, two transposed ones, a product over channels and a Gemm; odd widths."""
    rng = np.random.default_rng(0)
    kind = TYPES[precision]
    sizes = {
        "a": (24, 3, 3, 3), "b": (30, 12, 3, 3), "c": (30, 13, 2, 2), "d": (13, 16, 2, 2),
        "m": (16 if transposed else 30, 21), "g": (11, 21),
    }  # fmt: skip
    tensors = [
        numpy_helper.from_array(
            rng.standard_normal(size).astype(helper.tensor_dtype_to_np_dtype(kind)), name
        )
        for name, size in sizes.items()
    ]
    node = helper.make_node
    nodes = [
        node("Cast", ["input"], ["x"], "cast", to=kind),
        node("Conv", ["x", "a"], ["y0"], "conv", pads=[1] * 4),
        node("Conv", ["y0", "b"], ["y1"], "groups", pads=[1] * 4, group=2),
    ]
    last = "y1"
    if transposed:
        nodes += [
            node("ConvTranspose", ["y1", "c"], ["y2"], "up", strides=[2, 2]),
            node("ConvTranspose", ["y2", "d"], ["y3"], "again", strides=[2, 2]),
        ]
        last = "y3"
    nodes += [
        node("Transpose", [last], ["rows"], "turn", perm=[0, 2, 3, 1]),
        node("MatMul", ["rows", "m"], ["y4"], "product"),
        node("ReduceMean", ["y4", "axes"], ["y5"], "mean", keepdims=0),
        node("Gemm", ["y5", "g"], ["y6"], "gemm", transB=1),
        node("Cast", ["y6"], ["output"], "back", to=TensorProto.FLOAT),
    ]
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    return model_of(nodes, [*tensors, axes])


def int8_graph(operator: str) -> onnx.ModelProto:
    """A layer that reads and gives int8."""
    rng = np.random.default_rng(0)
    size = {"Conv": (24, 3, 3, 3), "ConvTranspose": (3, 30, 2, 2), "MatMul": (3, 21)}[operator]
    axis = 0 if operator == "Conv" else 1
    options = {"Conv": {"pads": [1] * 4}, "ConvTranspose": {"strides": [2, 2]}, "MatMul": {}}
    tensors = {
        "w": rng.integers(-127, 128, size, np.int8),
        "scales": np.full(size[axis], 0.01, np.float32),
        "scale": np.float32(0.05),
        "zero": np.int8(0),
    }
    node = helper.make_node
    nodes = [
        node("Transpose", ["input"], ["x"], "turn", perm=[0, 2, 3, 1])
        if operator == "MatMul"
        else node("Relu", ["input"], ["x"], "relu"),
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"),
        node("DequantizeLinear", ["w", "scales"], ["dw"], "dw", axis=axis),
        node(operator, ["dq", "dw"], ["y"], "layer", **options[operator]),
        node("Relu", ["y"], ["z"], "act"),
        node("QuantizeLinear", ["z", "scale", "zero"], ["q2"], "q2"),
        node("DequantizeLinear", ["q2", "scale", "zero"], ["output"], "dq2"),
    ]
    return model_of(
        nodes, [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    )
