from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter

from sls_deploy.engine.evidence import Evidence, gather_evidence
from sls_deploy.engine.stage import EngineResult
from sls_deploy.onnx_file import read_model
from sls_deploy.run import Run

Built = tuple[Run, dict[str, EngineResult]]
Maker = Callable[..., onnx.ModelProto]
LEVEL_WITHOUT_BYTES = {"fp16": "L0", "fp32": "none"}
"""Sparse tensor cores compute no fp32, so none of its layers is eligible."""


def source(built: Built, precision: str) -> tuple[onnx.ModelProto, bytes]:
    run, results = built
    graph = run.folder("export", 0.5) / f"model.{precision}.onnx"
    return read_model(graph), results[precision].plan.read_bytes()


def stored(weight: NDArray[Any], multiple: int = 2) -> bytes:
    krsc = np.moveaxis(weight, 1, -1)
    padding = [(0, 0)] * 3 + [(0, -krsc.shape[-1] % multiple)]
    return np.pad(krsc, padding).tobytes()


def weight_of(model: onnx.ModelProto, number: int) -> NDArray[Any]:
    return numpy_helper.to_array(model.graph.initializer[number])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_weight_of_a_real_engine_is_found(built: Built, precision: str) -> None:
    evidence = gather_evidence(*source(built, precision))
    assert [layer.bytes_in_plan for layer in evidence.layers] == [True] * 6


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_of_other_weights_is_not_taken_for_this_one(
    built: Built, precision: str, tmp_path: Path, make_network: Maker
) -> None:
    _, plan = source(built, precision)
    other = make_network(tmp_path / "other.onnx", precision, seed=1)
    evidence = gather_evidence(other, plan)
    assert [layer.bytes_in_plan for layer in evidence.layers] == [False] * 6
    assert evidence.level == LEVEL_WITHOUT_BYTES[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_changed_byte_is_noticed(built: Built, precision: str) -> None:
    model, plan = source(built, precision)
    place = plan.index(stored(weight_of(model, 1)))
    changed = bytearray(plan)
    changed[place + 100] ^= 1
    evidence = gather_evidence(model, bytes(changed))
    assert [layer.bytes_in_plan for layer in evidence.layers] == [True, False] + [True] * 4
    assert evidence.level == LEVEL_WITHOUT_BYTES[precision]
    assert "not in the plan as they are" in evidence.layers[1].note


def test_a_real_engine_reaches_l1_and_no_more(built: Built) -> None:
    evidence = built[1]["fp16"].manifest.evidence
    assert evidence.level == "L1"
    assert evidence.statement == (
        "3 of 3 eligible layers' weights found in the plan; "
        "kernel choice unknown until it is loaded on a GPU"
    )


def test_each_layer_that_is_not_eligible_says_why(built: Built) -> None:
    evidence = built[1]["fp16"].manifest.evidence
    told = {layer.name: layer.reason for layer in evidence.layers if not layer.eligible}
    assert told == {
        "conv0": "its 3 input channels are not a multiple of 4, its weights are not 2:4",
        "conv3": "its 25 input channels are not a multiple of 4, its weights are not 2:4",
        "conv4": "it has 4 convolution groups",
    }


def test_a_layer_is_described_as_the_graph_has_it(built: Built) -> None:
    layer = built[1]["fp32"].manifest.evidence.layers[4]
    assert (layer.name, layer.operator, layer.precision) == ("conv4", "Conv", "fp32")
    assert (layer.onnx_initializer, layer.c_in, layer.groups) == ("network.4.weight", 32, 4)
    assert layer.legal_2_4


def test_fp32_is_not_eligible_and_still_looked_up(built: Built) -> None:
    evidence = built[1]["fp32"].manifest.evidence
    assert evidence.layers[1].reason == (
        "it computes in fp32 (TF32 is off), for which there are no sparse tensor cores"
    )
    assert evidence.statement == (
        "no layer is eligible for sparse kernels, though 4 are 2:4 (4 of 4 in the plan)"
    )


def test_few_channels_are_a_note_and_no_refusal(built: Built) -> None:
    layers = built[1]["fp16"].manifest.evidence.layers
    noted = [layer.name for layer in layers if "seldom faster below 256" in layer.note]
    assert noted == [layer.name for layer in layers if layer.eligible]


@pytest.mark.parametrize(
    ("c_out", "c_in", "noted"), [(256, 256, False), (255, 256, True), (256, 252, True)]
)
def test_both_sides_of_a_layer_count_as_few(c_out: int, c_in: int, noted: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((c_out, c_in, 1, 1)).astype(np.float16)
    weight[:, ::2] = 0
    model = one_convolution([numpy_helper.from_array(weight, "w")])
    (layer,) = gather_evidence(model, stored(weight)).layers
    assert layer.eligible
    assert bool(layer.note) == noted


def test_l1_needs_every_eligible_layer_to_be_found() -> None:
    told = np.arange(1, 65, dtype=np.float16).reshape(8, 8, 1, 1)
    told[:, ::2] = 0
    untold = np.zeros((8, 8, 1, 1), np.float16)
    plan = stored(told) + stored(untold)
    weights = [numpy_helper.from_array(told, "w"), numpy_helper.from_array(untold, "v")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "first"),
        helper.make_node("Conv", ["y", "v"], ["z"], "second"),
    ]
    both = helper.make_model(helper.make_graph(nodes, "network", [], [], weights))
    evidence = gather_evidence(both, plan)
    assert [layer.eligible for layer in evidence.layers] == [True, True]
    assert [layer.bytes_in_plan for layer in evidence.layers] == [True, None]
    assert evidence.level == "L0"
    assert evidence.statement.startswith("1 of 2 eligible layers' weights found in the plan")
    assert gather_evidence(one_convolution(weights[:1]), plan).level == "L1"


def test_a_level_needs_at_least_one_weight_that_can_be_told() -> None:
    weight = numpy_helper.from_array(np.zeros((4, 4, 3, 3), np.float16), "w")
    model = one_convolution([weight])
    evidence = gather_evidence(model, stored(numpy_helper.to_array(weight)))
    assert evidence.level == "L0"
    assert evidence.layers[0].bytes_in_plan is None
    assert "too few" in evidence.layers[0].note


def test_a_weight_computed_in_the_graph_is_reported_as_unknown() -> None:
    evidence = gather_evidence(one_convolution([]), b"plan")
    layer = evidence.layers[0]
    assert (layer.eligible, layer.bytes_in_plan, layer.onnx_initializer) == (False, None, "")
    assert layer.reason == "its weights are no constant of the graph"
    assert evidence.level == "none"


@pytest.mark.parametrize("kind", [np.float16, np.int8])
def test_a_weight_is_followed_to_what_the_convolution_gets(kind: type) -> None:
    weight = np.arange(-64, 64, dtype=np.int8).reshape(8, 16, 1, 1)
    weight[:, ::2] = 0
    filters = weight.astype(kind)
    # As stored: fp32 behind a Cast, or integers behind their scale; turned in both cases.
    held = filters.astype(np.int8 if kind is np.int8 else np.float32).transpose(1, 0, 2, 3)
    step = (
        helper.make_node("DequantizeLinear", ["w", "scale"], ["floats"], "dq")
        if kind is np.int8
        else helper.make_node("Cast", ["w"], ["floats"], "cast", to=10)
    )
    nodes = [
        step,
        helper.make_node("Transpose", ["floats"], ["turned"], "turn", perm=[1, 0, 2, 3]),
        helper.make_node("Conv", ["x", "turned"], ["y"], "conv"),
    ]
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "scale")
    tensors = [numpy_helper.from_array(held.copy(), "w"), scale]
    model = helper.make_model(helper.make_graph(nodes, "network", [], [], tensors))
    evidence = gather_evidence(model, stored(filters))
    (layer,) = evidence.layers
    assert (layer.name, layer.onnx_initializer, layer.c_in) == ("conv", "w", 16)
    assert (layer.legal_2_4, layer.bytes_in_plan) == (True, True)


def test_a_transposed_convolution_is_listed_and_not_eligible() -> None:
    weight = np.arange(64, dtype=np.float32).reshape(8, 8, 1, 1)
    weight[::2] = 0
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up")
    graph = helper.make_graph([node], "network", [], [], [numpy_helper.from_array(weight, "w")])
    evidence = gather_evidence(helper.make_model(graph), b"")
    (layer,) = evidence.layers
    assert (layer.legal_2_4, layer.eligible, evidence.level) == (True, False, "none")
    assert "it is a transposed convolution" in layer.reason


@pytest.mark.parametrize(
    ("lines", "level", "words"),
    [
        (("Found 5", "Chose 2"), "L3", "chose a sparse kernel for 2 layers"),
        (("Found 5", "Chose 0"), "L2", "found 5 layers eligible and chose dense ones"),
        (("Found 5",), "L2", "did not say which kernels it chose"),
        (("Found 0", "Chose 0"), "L0", "0 of 1 eligible"),
    ],
)
def test_the_level_follows_what_tensorrt_chose_on_a_gpu(
    lines: tuple[str, ...], level: str, words: str
) -> None:
    weight = np.arange(64, dtype=np.float16).reshape(8, 8, 1, 1)
    weight[:, ::2] = 0
    model = one_convolution([numpy_helper.from_array(weight, "w")])
    endings = {
        "Found": "layer(s) eligible to use sparse tactics",
        "Chose": "layer(s) using sparse tactics",
    }
    log = [f"(Sparsity) {line} {endings[line.split()[0]]}" for line in lines]
    evidence = gather_evidence(model, b"reordered", log)
    assert evidence.level == level
    assert words in evidence.statement


TWO_OF_THREE = (
    "(Sparsity) Layers eligible for sparse math: conv0 + relu0, conv1",
    "(Sparsity) TRT inference plan picked sparse implementation for layers: conv1",
)


def named(evidence: Evidence) -> list[tuple[bool | None, bool | None]]:
    return [(layer.found, layer.chosen) for layer in evidence.layers]


def test_what_tensorrt_named_is_told_of_each_layer() -> None:
    evidence = gather_evidence(three_convolutions(), b"", TWO_OF_THREE)
    assert named(evidence) == [(True, False), (True, True), (False, False)]
    assert (evidence.log.eligible, evidence.log.chosen, evidence.level) == (2, 1, "L3")


def test_counts_alone_tell_nothing_of_a_layer() -> None:
    lines = ["(Sparsity) Found 3 layer(s) eligible to use sparse tactics",
             "(Sparsity) Chose 0 layer(s) using sparse tactics"]  # fmt: skip
    evidence = gather_evidence(three_convolutions(), b"", lines)
    assert named(evidence) == [(None, False)] * 3


def test_evidence_survives_json() -> None:
    evidence = gather_evidence(three_convolutions(), b"", TWO_OF_THREE)
    again = TypeAdapter(Evidence).validate_json(json.dumps(asdict(evidence)))
    assert again == evidence


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (True, ["QuantizeLinear"], ""),
        (True, ["Relu", "QuantizeLinear"], ""),
        (True, ["Add", "Relu", "QuantizeLinear"], ""),
        (True, [], "its output is not int8, as sparse int8 kernels want"),
        (True, ["Relu"], "its output is not int8, as sparse int8 kernels want"),
        (
            True,
            ["Sigmoid", "QuantizeLinear"],
            "its output is not int8, as sparse int8 kernels want",
        ),
        (False, ["QuantizeLinear"], "its input is not int8, as sparse int8 kernels want"),
    ],
)
def test_int8_layers_must_read_and_give_int8(before: bool, after: list[str], reason: str) -> None:
    (layer,) = gather_evidence(int8_convolution(before, after), b"").layers
    assert (layer.precision, layer.reason, layer.eligible) == ("int8", reason, not reason)


def test_every_reader_of_an_int8_layer_counts() -> None:
    model = int8_convolution(True, ["QuantizeLinear"])
    model.graph.node.append(helper.make_node("Sigmoid", ["y"], ["elsewhere"], "also"))
    model.graph.output.append(helper.make_tensor_value_info("elsewhere", TensorProto.FLOAT, None))
    (layer,) = gather_evidence(model, b"").layers
    assert layer.reason == "its output is not int8, as sparse int8 kernels want"


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_products_are_layers_too(operator: str) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float16)
    weight[::2] = 0
    node = helper.make_node(operator, ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "network", [], [], [numpy_helper.from_array(weight, "w")])
    (layer,) = gather_evidence(helper.make_model(graph), weight.tobytes()).layers
    assert (layer.operator, layer.c_in, layer.eligible) == (operator, 8, True)
    assert layer.bytes_in_plan is True


def three_convolutions() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((8, 8, 1, 1)).astype(np.float16)
    weight[:, ::2] = 0
    nodes = [helper.make_node("Conv", [f"x{n}", "w"], [f"x{n + 1}"], f"conv{n}") for n in range(3)]
    tensors = [numpy_helper.from_array(weight, "w")]
    return helper.make_model(helper.make_graph(nodes, "network", [], [], tensors))


def int8_convolution(quantised: bool, after: list[str]) -> onnx.ModelProto:
    """A convolution with int8 weights, its input from int8 or not, and operators behind it."""
    weight = np.arange(64, dtype=np.int8).reshape(8, 8, 1, 1)
    weight[:, ::2] = 0
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["dw"], "dw"),
        node("DequantizeLinear", ["q", "s"], ["dq"], "dq"),
        node("Conv", ["dq" if quantised else "x", "dw"], ["y"], "conv"),
    ]
    last = "y"
    for number, operator in enumerate(after):
        second = {"QuantizeLinear": ["s"], "Add": ["other"]}.get(operator, [])
        nodes.append(node(operator, [last, *second], [f"v{number}"], f"after{number}"))
        last = f"v{number}"
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    tensors = [
        numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(0.1), "s")
    ]  # fmt: skip
    return helper.make_model(helper.make_graph(nodes, "network", [], [output], tensors))


def one_convolution(weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    return helper.make_model(helper.make_graph([node], "network", [], [], weights))
