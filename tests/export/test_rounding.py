from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import parser, shape_inference

from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.half_types import LARGEST, HalfPrecision
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.exported_graphs import exported

PICTURES = np.random.default_rng(0).random((2, 3, 6, 8), dtype=np.float32)
TYPES: dict[HalfPrecision, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def graph(body: str, constants: str = "") -> ir.Model:
    ends = "(float[n, 3, h, w] input) => (float[n, 3, h, w] output)"
    text = f'<ir_version: 10, opset_import: ["": 18]> net {ends} <{constants}> {{ {body} }}'
    return ir.from_proto(shape_inference.infer_shapes(parser.parse_model(text)))


def rounded(model: ir.Model, precision: HalfPrecision, *keep: str) -> OnnxRunner:
    half = Half(precision, keep)(model).model
    return OnnxRunner(to_bytes(RoundedFloat32()(half).model), threads=1)


CASTS = {precision: rounded(graph("output = Identity (input)"), precision) for precision in TYPES}


def numbers(high: float) -> st.SearchStrategy[NDArray[np.float32]]:
    """Numbers of both signs over all magnitudes up to the largest, and zero."""
    magnitudes = st.floats(0, float(np.float32(high)), width=32)
    return arrays(np.float32, (1, 3, 4, 4), elements=magnitudes | magnitudes.map(lambda x: -x))


@given(numbers(65504))
def test_rounds_as_fp16_does(values: NDArray[np.float32]) -> None:
    expected = values.astype(np.float16).astype(np.float32)
    assert np.array_equal(CASTS["fp16"].run(values), expected)


@given(numbers(LARGEST["bf16"]))
def test_rounds_as_bf16_does(values: NDArray[np.float32]) -> None:
    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(CASTS["bf16"].run(values), expected)


@pytest.mark.parametrize(
    ("precision", "value", "finite"),
    [
        ("fp16", 65519, True), ("fp16", 65520, False), ("fp16", -1e9, False),
        ("fp16", math.inf, False), ("bf16", 3.39e38, True), ("bf16", -3.4e38, False),
    ],
)  # fmt: skip
def test_what_is_beyond_the_type_becomes_infinite(
    precision: HalfPrecision, value: float, finite: bool
) -> None:
    got = CASTS[precision].run(np.full((1, 3, 4, 4), value, np.float32))
    largest = math.copysign(LARGEST[precision] if finite else math.inf, value)
    assert np.array_equal(got, np.full_like(got, largest))


def test_an_overflow_inside_is_seen_behind_it() -> None:
    body = "a = Neg (input) b = Mul (a, big) c = Mul (b, big) d = Div (c, big) output = Neg (d)"
    constants, bright = "float[1] big = {3000}", PICTURES + np.float32(0.01)
    assert np.isinf(rounded(graph(body, constants), "fp16").run(bright)).all()
    assert np.isfinite(rounded(graph(body, constants), "bf16").run(bright)).all()


@pytest.mark.parametrize("precision", TYPES)
def test_arithmetic_equals_that_of_the_type(precision: HalfPrecision) -> None:
    half = TYPES[precision]
    model = graph("act = Relu (input) output = Add (act, third)", "float[1] third = {0.3333}")
    expected = PICTURES.astype(half) + np.array(0.3333, half)
    assert np.array_equal(rounded(model, precision).run(PICTURES), expected.astype(np.float32))


def test_kept_operators_are_not_rounded() -> None:
    model = graph("[kept] act = Mul (input, third) output = Neg (act)", "float[1] third = {0.3333}")
    half = Half("fp16", ["kept"])(model).model
    proto = RoundedFloat32()(half).model
    names = {node.name for node in proto.graph}
    assert "act.float16.rounded" in names
    assert "act.rounded" not in names


def test_what_only_moves_numbers_is_not_rounded_again() -> None:
    model = graph("a = Relu (input) b = Transpose <perm = [0, 1, 2, 3]> (a) output = Sigmoid (b)")
    result = RoundedFloat32()(Half("bf16")(model).model).model
    names = [node.name for node in result.graph if (node.name or "").endswith(".rounded")]
    assert names == ["input.bfloat16.rounded", "output.bfloat16.rounded"]


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("name", ["edsr", "gates", "token_attention"])
def test_whole_networks_lose_what_the_bits_make_them_lose(
    name: str, precision: HalfPrecision
) -> None:
    model = exported(name)
    pictures = np.random.default_rng(0).random((1, 3, 16, 24), dtype=np.float32)
    exact = OnnxRunner(to_bytes(model), threads=1).run(pictures)
    error = np.abs(rounded(model, precision).run(pictures) - exact).max()
    step = {"fp16": 2.0**-11, "bf16": 2.0**-8}[precision]
    assert step / 8 < error < 16 * step


def test_leaves_an_fp32_graph_alone() -> None:
    assert not RoundedFloat32()(graph("output = Relu (input)")).modified
