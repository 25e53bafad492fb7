from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.passes.half import stays_fp32
from sls_deploy.export.passes.half_types import HalfPrecision
from tests.export.exported_graphs import exported
from tests.export.half_graphs import (
    BFLOAT,
    LAYERS,
    SCALED,
    build,
    convert,
    graph,
    initializer_types,
    operators,
)


def test_bf16_rounds_weights_to_nearest_even() -> None:
    proto = convert(
        graph("output = Add (input, c)", "float[3, 1, 1] c = {1.00390625, 3, 0.1}"), "bf16"
    )
    array = numpy_helper.to_array(proto.graph.initializer[0])
    assert array.dtype == ml_dtypes.bfloat16
    assert array.ravel().astype(np.float32).tolist() == [1.0, 3.0, 0.10009765625]


def test_bf16_holds_what_fp16_cannot() -> None:
    body = "act = Relu (input) output = Add (act, big)"
    assert initializer_types(convert(graph(body, "float[1] big = {1e30}"), "bf16"))["big"] == BFLOAT
    with pytest.raises(SlsError, match=r"big: holds 3.4e\+38, beyond the 3.38953e\+38 of bf16"):
        convert(graph(body, "float[1] big = {3.4e38}"), "bf16")


def test_bf16_convolutions_raise_the_opset_and_nothing_else_does() -> None:
    assert convert(graph(*LAYERS), "bf16").opset_import[0].version == 22
    assert convert(graph(*SCALED), "bf16").opset_import[0].version == 18
    assert convert(graph(*LAYERS), "fp16").opset_import[0].version == 18


@pytest.mark.parametrize(
    ("operator", "constants", "fp32"),
    [
        ("HardSwish (a)", "", True),  # TensorRT for RTX does not read it
        (
            'Einsum <equation = "bchw,cd->bdhw"> (a, mix)',
            "float[3, 3] mix = {1, 2, 3, 4, 5, 6, 7, 8, 9}",
            True,
        ),
        ("ConvTranspose (a, w)", "float[3, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}", True),
        ("Elu (a)", "", False),
    ],
)
def test_what_has_no_bf16_form_stays_fp32(operator: str, constants: str, fp32: bool) -> None:
    model = graph(f"a = Relu (input) [odd] b = {operator} output = Neg (b)", constants)
    assert ("odd" in stays_fp32(model, "bf16")) == fp32
    assert "odd" not in stays_fp32(model, "fp16")
    assert operators(convert(model, "bf16")).count("Cast") == (4 if fp32 else 2)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_builds_it_with_kept_layers(precision: HalfPrecision, tmp_path: Path) -> None:
    model = exported("u_shape")  # with transposed convolutions
    keep = [node.name for node in model.graph if node.op_type == "Conv"][1::3]
    assert build(convert(model, precision, keep), tmp_path).stat().st_size > 0
