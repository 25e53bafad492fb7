from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from sls_deploy.export.int8_layers import (
    WeightedLayer,
    fused_output,
    own_bias,
    weighted_layers,
)

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
        array = rng.standard_normal(shape).astype(np.float32)
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


def test_a_kernel_writes_what_its_activation_gives() -> None:
    found = layers()
    assert fused_output(found["entry"].nodes[0]).name == "b"
    assert fused_output(found["body"].nodes[0]).name == "c"


def test_an_activation_beside_another_reader_is_not_fused() -> None:
    text = CHAIN.replace("Add (c, b)", "Add (c, a)")
    assert fused_output(layers(text=text)["entry"].nodes[0]).name == "a"


def test_a_bias_that_others_read_is_not_the_layers_own() -> None:
    bias = own_bias(layers()["entry"])
    assert bias is not None
    assert bias.name == "entry.bias"
    shared = CHAIN.replace("{body.weight})", "{body.weight}, {entry.bias})")
    assert own_bias(layers(text=shared)["entry"]) is None
    assert own_bias(layers()["body"]) is None
