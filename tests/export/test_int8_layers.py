from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sls_deploy.export.int8_layers import (
    WeightedLayer,
    own_bias,
    quantized_reads,
    weighted_layers,
)
from tests.export.exported_graphs import exported

CHAIN = """
    a = Conv <pads = [1, 1, 1, 1]> (input, {entry.weight}, {entry.bias})
    b = LeakyRelu (a)
    c = Conv <pads = [1, 1, 1, 1], group = 2> (b, {body.weight})
    d = Add (c, b)
    e = Conv <pads = [1, 1, 1, 1]> (d, {exit.weight})
    output = Add (input, e)
"""
WEIGHTS = {
    "entry.weight": (8, 3, 3, 3),
    "entry.bias": (8,),
    "body.weight": (8, 4, 3, 3),
    "exit.weight": (3, 8, 3, 3),
}


def graph(body: str, weights: dict[str, tuple[int, ...]]) -> ir.Graph:
    """A graph from the text of its nodes, in which {names} are random initialisers."""
    rng = np.random.default_rng(0)
    for name in weights:
        body = body.replace("{" + name + "}", name.replace(".", "_"))
    ends = "(float[1, 3, 8, 8] input) => (float[1, 3, 8, 8] output)"
    text = f'<ir_version: 9, opset_import: ["": 18]> net {ends} {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for node in proto.graph.node:
        node.name = node.output[0]
        for index, name in enumerate(node.input):
            node.input[index] = next((w for w in weights if w.replace(".", "_") == name), name)
    for name, shape in weights.items():
        array = np.asarray(rng.standard_normal(shape), np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto)).graph


def layers(*keep: str, ends: bool = False, text: str = CHAIN) -> dict[str, WeightedLayer]:
    found = weighted_layers(graph(text, WEIGHTS), keep, ends=ends)
    return {layer.name: layer for layer in found}


def test_first_and_last_layers_stay() -> None:
    reasons = {name: layer.reason for name, layer in layers().items()}
    assert reasons == {"entry": "first layer", "body": "", "exit": "last layer"}


def test_first_and_last_may_be_asked_for() -> None:
    assert not any(layer.reason for layer in layers(ends=True).values())


def test_patterns_keep_layers() -> None:
    found = layers("b*", "nothing", ends=True)
    assert found["body"].reason == "kept by 'b*'"
    assert not found["exit"].reason


def test_layers_know_groups_and_axes() -> None:
    body = layers()["body"]
    assert (body.groups, body.axis, body.channel_axis) == (2, 0, 1)


def test_a_weight_that_is_used_twice_is_one_layer() -> None:
    again = (
        "d = Add (c, b)",
        "c2 = Conv <pads = [1, 1, 1, 1], group = 2> (c, {body.weight}) d = Add (c2, b)",
    )
    found = layers(text=CHAIN.replace(*again))
    assert [node.name for node in found["body"].nodes] == ["c", "c2"]


def test_a_weight_that_is_also_data_stays() -> None:
    weights = {"body.weight": (3, 3, 8, 8)}
    text = "a = Conv <pads = [3, 3, 4, 4]> (input, {body.weight}) output = Add (a, {body.weight})"
    (layer,) = weighted_layers(graph(text, weights), ends=True)
    assert layer.reason == "its weight is used in different ways"


def test_products_and_transposed_convolutions_have_their_own_axes() -> None:
    weights = {
        "up.weight": (3, 3, 1, 1),
        "mix.weight": (8, 8),
        "gemm.weight": (8, 8),
        "back.weight": (8, 8),
    }
    text = """
        a = ConvTranspose (input, {up.weight}) b = MatMul (a, {mix.weight})
        shape = Constant <value_ints = [24, 8]> ()
        c = Reshape (b, shape) d = Gemm <transB = 1> (c, {gemm.weight})
        e = Gemm (d, {back.weight}) size = Shape (input) output = Reshape (e, size)
    """
    found = {layer.name: layer for layer in weighted_layers(graph(text, weights), ends=True)}
    axes = {name: (layer.axis, layer.channel_axis) for name, layer in found.items()}
    assert axes == {"up": (1, 1), "mix": (1, -1), "gemm": (0, -1), "back": (1, -1)}


def test_products_of_two_activations_are_no_layers() -> None:
    assert weighted_layers(graph("output = MatMul (input, input)", {})) == []


def reads(text: str, *chosen: str) -> dict[str, str]:
    """What is read in int8, operator and tensor, where these layers are; all, if none is named."""
    whole = graph(text, WEIGHTS)
    found = weighted_layers(whole, ends=True)
    slots = quantized_reads(whole, found, chosen or [layer.name for layer in found])
    assert all(whole.node(name).inputs[index] is value for (name, index), value in slots.items())
    return {name: value.name or "" for (name, _), value in slots.items()}


def test_an_add_behind_a_layer_reads_the_other_side_in_int8() -> None:
    assert reads(CHAIN) == {"a": "input", "c": "b", "d": "b", "e": "d"}


def test_an_add_behind_a_layer_that_stays_reads_floats() -> None:
    assert reads(CHAIN, "entry", "exit") == {"a": "input", "e": "d"}


@pytest.mark.parametrize(
    ("behind", "quantised"),
    [
        ("f = Relu (d)", True),
        ("f = Concat <axis = 1> (d)", True),
        ("f = MaxPool <kernel_shape = [1, 1]> (d)", True),
        ("f = Sigmoid (d)", False),
        ("g = Sigmoid (d) f = Relu (d)", False),
    ],
)
def test_an_add_reads_int8_only_if_what_reads_it_does(behind: str, quantised: bool) -> None:
    text = CHAIN.replace("(d, {exit.weight})", "(f, {exit.weight})").replace("e =", f"{behind} e =")
    assert ("d" in reads(text)) is quantised
    assert "d" not in reads(text, "entry", "body")


def test_an_add_of_an_add_reads_int8() -> None:
    again = "d1 = Add (c, b) c2 = Conv <pads = [1, 1, 1, 1], group = 2> (d1, {body.weight}) "
    text = CHAIN.replace("d = Add (c, b)", again + "d = Add (d1, c2)")
    assert reads(text) == {"a": "input", "c": "b", "d1": "b", "c2": "d1", "d": "d1", "e": "d"}


def test_fewer_layers_read_no_more() -> None:
    whole = exported("carn").graph
    free = [layer for layer in weighted_layers(whole) if not layer.reason]
    most = quantized_reads(whole, free, [layer.name for layer in free]).keys()
    for layer in free:
        fewer = quantized_reads(whole, free, [other.name for other in free if other is not layer])
        assert fewer.keys() < most


def test_a_scaling_by_a_constant_does_not_part_a_layer_from_its_add() -> None:
    scaled = CHAIN.replace("d = Add (c, b)", "s = Mul (c, {entry.bias}) d = Add (s, b)")
    assert reads(scaled)["d"] == "b"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("d = Add (c, b) f = Relu (c)", "another operator reads what the layer gives"),
        ("r = Relu (c) d = Add (r, b)", "an activation comes first"),
        ("d = Add (c, c)", "both sides are the layer's"),
        ("d = Add (c, {entry.bias})", "the other side is a constant"),
        ("d = Mul (c, b)", "it is no Add"),
        ("r = Sigmoid (c) d = Mul (r, b)", "a Sigmoid reads what the layer gives"),
    ],
)
def test_no_other_reader_of_a_layer_reads_int8(body: str, reason: str) -> None:
    found = reads(CHAIN.replace("d = Add (c, b)", body))
    assert found == {"a": "input", "c": "b", "e": "d"}, reason


def test_where_two_layers_meet_the_later_one_has_the_add() -> None:
    text = """
        a = Conv <pads = [1, 1, 1, 1]> (input, {entry.weight}, {entry.bias})
        b = Conv <pads = [1, 1, 1, 1], group = 2> (a, {body.weight})
        c = Conv <pads = [1, 1, 1, 1], group = 2> (a, {again.weight})
        d = Add (c, b)
        output = Conv <pads = [1, 1, 1, 1]> (d, {exit.weight})
    """
    whole = graph(text, WEIGHTS | {"again.weight": (8, 4, 3, 3)})
    found = weighted_layers(whole)
    assert quantized_reads(whole, found, ["body", "again", "exit"])["d", 1].name == "b"
    # Without the later layer nothing takes its place.
    fewer = quantized_reads(whole, found, ["body", "exit"])
    assert not {("d", 0), ("d", 1)} & fewer.keys()


@pytest.mark.parametrize(
    ("name", "entry", "exit_"), [("edsr", "head.0", "tail.1"), ("carn", "entry", "exit")]
)
def test_shifts_by_the_mean_colour_are_no_ends(name: str, entry: str, exit_: str) -> None:
    found = weighted_layers(exported(name).graph)
    reasons = {layer.name: layer.reason for layer in found if layer.reason}
    shifts = {layer for layer, reason in reasons.items() if reason == "fixed colour shift"}
    assert {layer.partition(".")[0] for layer in shifts} == {"sub_mean", "add_mean"}
    assert reasons == dict.fromkeys(shifts, "fixed colour shift") | {
        entry: "first layer",
        exit_: "last layer",
    }


def test_shifts_by_the_mean_colour_stay_with_the_ends_in_int8() -> None:
    found = weighted_layers(exported("carn").graph, ends=True)
    kept = [layer.name for layer in found if layer.reason]
    assert kept == ["sub_mean.shifter", "add_mean.shifter"]


SHIFT = "s = Mul (input, {white}) a = Conv (s, {shift.weight}) output = Conv (a, {exit.weight})"


@pytest.mark.parametrize(
    ("text", "factors", "reason"),
    [
        (SHIFT, np.diag([1, 2, 0.5]), "fixed colour shift"),
        (SHIFT, np.eye(3) + 0.1, "first layer"),
        (SHIFT.replace("Mul (input, {white})", "Relu (input)"), np.eye(3), "first layer"),
        (SHIFT.replace("Mul (input, {white})", "Mul (input, input)"), np.eye(3), "first layer"),
        (SHIFT.replace("Conv (s", "Conv <group = 3> (s"), np.ones((3, 1)), "fixed colour shift"),
    ],
)
def test_a_colour_shift_mixes_nothing_and_reads_the_picture(
    text: str, factors: np.ndarray, reason: str
) -> None:
    shape = (*factors.shape, 1, 1)
    weights = {"white": (), "shift.weight": shape, "exit.weight": (3, 3, 1, 1)}
    whole = graph(text, weights)
    array = factors.reshape(shape).astype(np.float32)
    whole.initializers["shift.weight"].const_value = ir.Tensor(array, name="shift.weight")
    assert weighted_layers(whole)[0].reason == reason


def test_a_bias_that_others_read_is_not_the_layers_own() -> None:
    bias = own_bias(layers()["entry"])
    assert bias is not None
    assert bias.name == "entry.bias"
    shared = CHAIN.replace("{body.weight})", "{body.weight}, {entry.bias})")
    assert own_bias(layers(text=shared)["entry"]) is None
    assert own_bias(layers()["body"]) is None
