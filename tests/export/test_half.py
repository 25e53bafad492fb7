from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half, stays_fp32
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.exported_graphs import exported

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


SCALED = (
    "big = Mul (input, white) act = Relu (big) sum = Add (act, shift) output = Div (sum, white)",
    "float white = {255}, float[1] shift = {1.5}",
)


def test_scaling_at_the_ends_stays_fp32() -> None:
    proto = convert(graph(*SCALED))
    assert operators(proto) == ["Mul", "Cast", "Relu", "Add", "Cast", "Div"]
    assert initializer_types(proto) == {"white": FLOAT, "shift": HALF}


def test_without_scaling_the_casts_stand_at_the_ends() -> None:
    proto = convert(graph("act = Relu (input) output = Neg (act)"))
    assert operators(proto) == ["Cast", "Relu", "Neg", "Cast"]
    assert proto.graph.output[0].type.tensor_type.elem_type == FLOAT


def test_a_constant_of_both_worlds_is_doubled() -> None:
    proto = convert(graph(SCALED[0].replace("shift", "white"), "float white = {255}"))
    assert initializer_types(proto) == {"white": FLOAT, "white.float16": HALF}


def test_the_scales_of_resize_stay_fp32() -> None:
    body = 'act = Relu (input) output = Resize <mode = "linear"> (act, , scales)'
    proto = convert(graph(body, "float[4] scales = {1, 1, 2, 2}"))
    assert initializer_types(proto) == {"scales": FLOAT}
    assert OnnxRunner(proto.SerializeToString()).run(PICTURES).shape == (2, 3, 12, 16)


def test_shapes_stay_whole_and_their_floats_fp32() -> None:
    body = """
        size = Shape (input) real = Cast <to = 1> (size) half = Mul (real, factor)
        target = Cast <to = 7> (half) act = Relu (input)
        output = Resize <mode = "nearest"> (act, , , target)
    """
    proto = convert(graph(body, "float[4] factor = {1, 1, 0.5, 0.5}"))
    assert operators(proto).count("Cast") == 4
    assert initializer_types(proto) == {"factor": FLOAT}


def test_a_float_made_from_a_shape_is_cast_where_it_meets_the_picture() -> None:
    body = """
        size = Shape (input) ones = ConstantOfShape <value: tensor = float[1] {2}> (size)
        act = Relu (input) output = Mul (act, ones)
    """
    proto = convert(graph(body))
    assert operators(proto).count("Cast") == 3
    assert np.allclose(run(proto), 2 * PICTURES, atol=2e-3)


def test_a_cast_of_the_picture_to_float_becomes_one_to_half() -> None:
    body = """
        positive = Greater (input, zero) mask = Cast <to = 1> (positive)
        kept = Mul (mask, input) output = Relu (kept)
    """
    proto = convert(graph(body, "float zero = {0.5}"))
    targets = [node.attribute[0].i for node in proto.graph.node if node.op_type == "Cast"]
    assert sorted(targets) == [FLOAT, HALF, HALF]


def test_reductions_are_halved_and_their_axes_are_not() -> None:
    body = """
        mean = ReduceMean (input, axes) top = ReduceMax (input, axes)
        sum = Add (mean, top) output = Mul (input, sum)
    """
    proto = convert(graph(body, "int64[2] axes = {2, 3}"))
    assert initializer_types(proto) == {"axes": onnx.TensorProto.INT64}


NORM = (
    """
        mean = ReduceMean (input, axes) centred = Sub (input, mean)
        square = Pow (centred, two) variance = ReduceMean (square, axes)
        safe = Add (variance, small) root = Sqrt (safe) normal = Div (centred, root)
        output = Mul (normal, gain)
    """,
    "int64[1] axes = {1}, float two = {2}, float small = {1e-12}, float[3, 1, 1] gain = {3, 4, 5}",
)


def test_a_normalisation_that_is_written_out_divides_in_fp32() -> None:
    proto = convert(graph(*NORM))
    assert initializer_types(proto) == {"axes": 7, "two": FLOAT, "small": FLOAT, "gain": HALF}
    assert operators(proto)[-2:] == ["Mul", "Cast"]
    flat = np.full((1, 3, 4, 4), 0.25, np.float32)
    assert not OnnxRunner(proto.SerializeToString()).run(flat).any()


@pytest.mark.parametrize(
    "body",
    [
        "square = Mul (input, input) output = Add (square, input)",
        "square = Mul (input, input) root = Sqrt (square) output = Add (root, input)",
    ],
)
def test_other_squares_are_fp16(body: str) -> None:
    proto = convert(graph(body))
    assert operators(proto).count("Cast") == 2


def test_what_comes_from_a_longer_way_to_the_root_is_fp32() -> None:
    body = """
        length = ReduceL2 (input, axes) least = Max (length, small) inverse = Reciprocal (least)
        normal = Mul (input, inverse) output = Relu (normal)
    """
    proto = convert(graph(body, "int64[1] axes = {1}, float small = {1e-12}"))
    assert initializer_types(proto)["small"] == FLOAT
    assert operators(proto)[-2:] == ["Relu", "Cast"]


def test_converting_a_normalisation_twice_changes_nothing_more() -> None:
    once = Half("fp16")(graph(*NORM)).model
    before = to_bytes(once)
    assert not Half("fp16")(once).modified
    assert to_bytes(once) == before


def test_converting_twice_changes_nothing_more() -> None:
    once = Half("fp16")(graph(*SCALED)).model
    before = to_bytes(once)
    assert not Half("fp16")(once).modified
    assert to_bytes(once) == before


@pytest.mark.parametrize("value", ["65505", "-1e9"])
def test_refuses_a_constant_beyond_fp16(value: str) -> None:
    body = "act = Relu (input) output = Add (act, big)"
    with pytest.raises(SlsError, match=r"big: holds .*, beyond the 65504 of fp16"):
        convert(graph(body, f"float[1] big = {{{value}}}"))


def test_takes_the_largest_half() -> None:
    proto = convert(graph("output = Add (input, big)", "float[3, 1, 1] big = {65504, 1, 1}"))
    assert initializer_types(proto) == {"big": HALF}


def test_refuses_a_subgraph() -> None:
    body = """
        act = Relu (input)
        [branch] output = If (flag) <
            then_branch = yes () => (float[n, 3, h, w] a) { a = Identity (act) },
            else_branch = no () => (float[n, 3, h, w] b) { b = Neg (act) }
        >
    """
    with pytest.raises(SlsError, match="branch: is a If with a graph of its own"):
        Half("fp16")(graph(body, "bool flag = {1}"))


LAYERS = (
    """
        [first] a = Conv <pads = [1, 1, 1, 1]> (input, weight) [act] b = Relu (a)
        [second] c = Conv <pads = [1, 1, 1, 1]> (b, weight) [sum] d = Add (c, b)
        [third] output = Conv <pads = [1, 1, 1, 1]> (d, weight)
    """,
    "float[3, 3, 3, 3] weight = {" + ", ".join(["0.1"] * 81) + "}",
)


def test_kept_operators_stay_fp32_with_casts_around_them() -> None:
    proto = convert(graph(*LAYERS), keep=["second"])
    assert operators(proto) == words("Cast Conv Relu Cast Conv Cast Add Conv Cast")
    assert initializer_types(proto) == {"weight": FLOAT, "weight.float16": HALF}


def test_no_cast_stands_between_kept_operators() -> None:
    proto = convert(graph(*LAYERS), keep=["act", "second", "sum"])
    assert operators(proto) == words("Cast Conv Cast Relu Conv Add Cast Conv Cast")


def test_a_value_goes_through_one_cast_for_all_that_read_it() -> None:
    proto = convert(graph(*LAYERS), keep=["second", "sum"])
    assert operators(proto) == words("Cast Conv Relu Cast Conv Add Cast Conv Cast")


def test_kept_ends_need_no_cast() -> None:
    proto = convert(graph(*LAYERS), keep=["first", "third"])
    assert operators(proto) == words("Conv Cast Relu Conv Add Cast Conv")


def test_with_everything_kept_nothing_changes() -> None:
    keep = ["first", "act", "second", "sum", "third"]
    assert not Half("fp16", keep)(graph(*LAYERS)).modified


def test_keeping_twice_changes_nothing_more() -> None:
    once = Half("fp16", ["second"])(graph(*LAYERS)).model
    before = to_bytes(once)
    assert not Half("fp16", ["second"])(once).modified
    assert to_bytes(once) == before


def test_refuses_to_keep_what_is_not_there() -> None:
    with pytest.raises(SlsError, match="fourth: is no operator of the graph"):
        convert(graph(*LAYERS), keep=["first", "fourth"])


def test_a_kept_operator_may_hold_what_fp16_cannot() -> None:
    body = "[act] act = Relu (input) [add] output = Add (act, big)"
    model = graph(body, "float[1] big = {1e6}")
    expected = run(model)
    assert np.array_equal(run(convert(model, keep=["act", "add"])), expected)


def test_kept_operators_compute_what_fp32_does() -> None:
    model = exported("residual")
    names = [node.name for node in model.graph if node.name]
    exact, half = run(model), run(convert(model.clone()))
    mostly = run(convert(model.clone(), keep=names[:-2]))
    assert 0 < np.abs(mostly - exact).max() < np.abs(half - exact).max()


def test_names_what_stays_fp32_by_itself() -> None:
    body, constants = NORM
    named = body.replace("normal = Div", "[last] normal = Div").replace("root =", "[root] root =")
    scaled = f"[first] big = Mul (input, white) {named.replace('(input', '(big')}"
    model = graph(scaled.replace(", input)", ", big)"), f"{constants}, float white = {{255}}")
    assert stays_fp32(model) == {"first", "root", "last"}


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
    path, plan = tmp_path / "model.onnx", tmp_path / "engine.plan"
    path.write_bytes(convert(model, precision, keep).SerializeToString())
    shape = (1, 3, 32, 32)
    request = BuildRequest(
        "tensorrt_rtx", "sm86", str(path), str(plan), "", "input", shape, shape, shape
    )
    answer = run_worker(request, 120)
    assert answer.outputs[0].dtype == "FLOAT"
    assert plan.stat().st_size > 0
