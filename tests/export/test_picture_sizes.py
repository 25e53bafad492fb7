from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half, stays_fp32
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.half_graphs import build, convert, graph, operators, words

SIZES = """
    size = Shape (input) rows = Gather <axis = 0> (size, i2) columns = Gather <axis = 0> (size, i3)
    whole = Mul (rows, columns) area = Cast <to = 1> (whole)
"""
PLACES = "int64 i2 = {2}, int64 i3 = {3}, int64[1] down = {2}, int64[1] across = {3}"
LAYER = "float[3, 3, 1, 1] weight = {1, 0.5, 0.5, -0.5, 1, 0.5, 0.25, 0.5, 2}"

CONTRAST = (
    f"""{SIZES}
        [layer] a = Conv (input, weight)
        [sum1] b = ReduceSum (a, across) [sum2] c = ReduceSum (b, down) [mean] d = Div (c, area)
        [centre] e = Sub (a, d) [square] f = Pow (e, two)
        [sum3] g = ReduceSum (f, across) [sum4] h = ReduceSum (g, down) [mean2] i = Div (h, area)
        [root] j = Pow (i, half) [join] k = Add (j, d) [gate] l = Sigmoid (k)
        [last] output = Mul (a, l)
    """,
    f"{PLACES}, {LAYER}, float two = {{2}}, float half = {{0.5}}",
)
"""Contrast-aware attention (Hui et al., Lightweight Image Super-Resolution with Information
Multi-distillation Network, 2019), as it is often written."""

WARP = (
    f"""{SIZES}
        [features] a = Relu (input) [layer] flow = Conv (a, weight)
        [cut] u, v, rest = Split <axis = 1, num_outputs = 3> (flow)
        xs = Range (zero, columns, one) fx = Cast <to = 1> (xs)
        ys = Range (zero, rows, one) fy0 = Cast <to = 1> (ys) fy = Unsqueeze (fy0, across1)
        right = Sub (columns, one) fright = Cast <to = 1> (right)
        bottom = Sub (rows, one) fbottom = Cast <to = 1> (bottom)
        [x1] x1 = Add (u, fx) [x2] x2 = Div (x1, fright) [x3] x3 = Mul (x2, two)
        [x4] x4 = Sub (x3, two2)
        [y1] y1 = Add (v, fy) [y2] y2 = Div (y1, fbottom) [y3] y3 = Mul (y2, two)
        [y4] y4 = Sub (y3, two2)
        [both] both = Concat <axis = 1> (x4, y4)
        [turn] grid = Transpose <perm = [0, 2, 3, 1]> (both)
        [sample] moved = GridSample <align_corners = 1, padding_mode = "border"> (a, grid)
        [end] output = Relu (moved)
    """,
    f"{PLACES}, {LAYER}, int64 zero = {{0}}, int64 one = {{1}}, int64[1] across1 = {{1}}, "
    "float two = {2}, float two2 = {1}",
)
NETWORKS = {"contrast": CONTRAST, "warp": WARP}


def smooth(rows: int, columns: int) -> np.ndarray:
    """A bright picture without noise, so that a place a little off costs little."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    wave = 0.6 + 0.3 * np.sin(x / 17 + y / 29)
    return np.stack([wave, wave**2, 1 - wave / 2])[None].astype(np.float32)


def every_value(model: ir.Model, picture: np.ndarray) -> dict[str, np.ndarray]:
    """All floats that ONNX Runtime computes in a graph."""
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(v for v in proto.graph.value_info if v.name not in known)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs() if value.type == "tensor(float)"]
    return dict(zip(names, session.run(names, {"input": picture}), strict=True))


@pytest.mark.parametrize(("precision", "most"), [("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_large_pictures_are_finite_and_near_fp32(
    name: str, precision: HalfPrecision, most: float
) -> None:
    model, picture = graph(*NETWORKS[name]), smooth(300, 320)
    expected = OnnxRunner(to_bytes(model), threads=1).run(picture)
    convert(model.clone(), precision)
    values = every_value(RoundedFloat32()(Half(precision)(model).model).model, picture)
    assert len(values) > 20
    assert all(np.isfinite(array).all() for array in values.values())
    got = values["output"] if "output" in values else values["output.rounded"]
    assert 0 < np.abs(got - expected).max() < most * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tensorrt_builds_them(name: str, precision: HalfPrecision, tmp_path: Path) -> None:
    proto = convert(graph(*NETWORKS[name]), precision)
    assert build(proto, tmp_path, most=320).stat().st_size > 0


def test_sums_and_what_reads_an_area_are_fp32() -> None:
    fp32 = {"sum1", "sum2", "mean", "square", "sum3", "sum4", "mean2"}
    assert stays_fp32(graph(*CONTRAST)) == fp32


def test_a_grid_is_fp32_back_to_the_layer_that_gives_the_flow() -> None:
    fp32 = words("layer cut x1 x2 x3 x4 y1 y2 y3 y4 both turn sample")
    assert stays_fp32(graph(*WARP)) == set(fp32)


@pytest.mark.parametrize(
    ("body", "fp32"),
    [
        # What stands between a sum and its division holds the sum.
        ("[a] a = ReduceSum (input) [b] b = Neg (a) [c] c = Div (b, area)", "a b c"),
        (
            "[a] a = ReduceL1 (input) v = Reciprocal (area) [b] b = Mul (a, v) c = Neg (b)",
            "a b",
        ),
        ("[a] a = ReduceSum (input) inv = Div (one, area) [b] b = Mul (inv, a) c = Neg (b)", "a b"),
        ("[a] a = ReduceSum (input) [b] b = Sigmoid (a) [c] c = Neg (b)", "a b"),
        ("[a] a = ReduceSum (input) [b] b = Div (input, a) [c] c = Neg (b)", "a b"),
        # A mean is small, and what is divided by a size; what is multiplied by one is not.
        ("[a] a = ReduceMean (input) [b] b = Neg (a) [c] c = Abs (b)", "a"),
        ("[a] a = Neg (input) [b] b = Div (a, area) [c] c = Abs (b)", "b"),
        ("[a] a = Neg (input) [b] b = Mul (a, area) [c] c = Abs (b)", "b c"),
        ("inv = Div (one, area) [b] b = Div (input, inv) [c] c = Abs (b)", "b c"),
        # These sums are over features, of which there are three.
        ("[a] a = ReduceSum (input, first) [b] b = Neg (a) c = Abs (b)", ""),
        # A mask holds constants, however large it is.
        ("m = Expand (one, size) [b] b = Add (input, m) c = Abs (b)", ""),
        ("g = Greater (area, one) m = Cast <to = 1> (g) [b] b = Add (input, m) c = Abs (b)", ""),
    ],
)
def test_what_holds_large_numbers_is_fp32(body: str, fp32: str) -> None:
    constants = f"{PLACES}, float one = {{1}}, int64[1] first = {{1}}"
    model = graph(f"{SIZES} {body} [end] output = Mul (input, c)", constants)
    assert stays_fp32(model) - {"end"} == set(words(fp32))


def test_squeeze_attention_gets_two_casts_more() -> None:
    body = """
        a = Conv (input, weight) b = GlobalAveragePool (a) c = Conv (b, weight) d = Sigmoid (c)
        output = Mul (a, d)
    """
    proto = convert(graph(body, LAYER))
    assert operators(proto) == words("Cast Conv Cast GlobalAveragePool Cast Conv Sigmoid Mul Cast")


def test_sides_of_a_fixed_size_count_too() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 18]>
        net (float[1, 3, 300, 320] input) => (float[1, 3, 1, 1] output)
        { [a] output = ReduceSum (input) }
    """
    assert stays_fp32(ir.from_proto(onnx.parser.parse_model(text))) == {"a"}
