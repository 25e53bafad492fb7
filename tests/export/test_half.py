from __future__ import annotations

import numpy as np
import onnx
import pytest

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half, stays_fp32
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.half_graphs import (
    FLOAT,
    HALF,
    PICTURES,
    SCALED,
    convert,
    graph,
    initializer_types,
    operators,
    run,
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


def test_a_root_may_be_written_as_a_power() -> None:
    body, constants = NORM
    power = body.replace("Sqrt (safe)", "Pow (safe, half)")
    proto = convert(graph(power, f"{constants}, float half = {{0.5}}"))
    assert initializer_types(proto)["small"] == FLOAT
    sqrt = operators(convert(graph(body, constants)))
    assert operators(proto) == ["Pow" if name == "Sqrt" else name for name in sqrt]


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


def test_names_what_stays_fp32_by_itself() -> None:
    body, constants = NORM
    named = body.replace("normal = Div", "[last] normal = Div").replace("root =", "[root] root =")
    scaled = f"[first] big = Mul (input, white) {named.replace('(input', '(big')}"
    model = graph(scaled.replace(", input)", ", big)"), f"{constants}, float white = {{255}}")
    assert stays_fp32(model) == {"first", "root", "last"}
