from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sls_deploy.calibration.int8 import dequantize_weight, half_scale, quantize_weight
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.quantize import OPSET, Int8Weight, Quantize, Slot
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.sparsity.legality import is_2_4
from tests.export.engines import built

PICTURES = np.random.default_rng(0).random((2, 3, 9, 8), dtype=np.float32)
SHAPES = {"entry": (16, 3), "left": (16, 16), "right": (16, 16), "exit": (3, 32)}
BODY = """
    [entry] a = Conv <pads = [1, 1, 1, 1]> (input, entry_weight)
    [relu] b = Relu (a)
    [left] c = Conv <pads = [1, 1, 1, 1]> (b, left_weight, left_bias)
    [leaky] d = LeakyRelu (c)
    [right] e = Conv <pads = [1, 1, 1, 1]> (b, right_weight)
    [add] f = Add (e, b)
    [join] g = Concat <axis = 1> (d, f)
    [exit] output = Conv <pads = [1, 1, 1, 1]> (g, exit_weight)
"""


def network() -> ir.Model:
    """Four convolutions, those in the middle 2:4; one tensor has three readers."""
    rng = np.random.default_rng(1)
    ends = "(float[n, 3, h, w] input) => (float[n, 3, h, w] output)"
    text = f'<ir_version: 9, opset_import: ["": 18]> net {ends} {{ {BODY} }}'
    proto = onnx.parser.parse_model(text)
    for name, (filters, channels) in SHAPES.items():
        weight = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32) / 10
        if name in ("left", "right"):
            quads = weight.reshape(filters, -1, 4, 3, 3)
            quads[np.abs(quads).argsort(2).argsort(2) < 2] = 0
        proto.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
    bias = rng.standard_normal(16).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(bias, "left_bias"))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def weights(*layers: str, bias: bool = False) -> list[Int8Weight]:
    found = []
    for layer in layers:
        value = network().graph.initializers[f"{layer}_weight"].const_value
        assert value is not None
        integers, scales = quantize_weight(value.numpy(), 0)
        corrected = np.full(16, 0.25) if bias else None
        name = f"{layer}_weight"
        found.append(Int8Weight(name, (layer,), 0, integers, scales, corrected))
    return found


STEP = float(half_scale(2.0))
BOTH = {("left", 0): STEP, ("right", 0): STEP}


def quantize(
    model: ir.Model,
    layers: list[Int8Weight],
    reads: dict[Slot, float],
) -> onnx.ModelProto:
    """The quantised form, checked for order, names and types."""
    model, _ = run_passes(model, [("int8", Quantize(layers, reads))])
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def readers(proto: onnx.ModelProto) -> dict[str, list[str]]:
    return {node.name: list(node.input) for node in proto.graph.node}


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def test_a_weight_becomes_integers_of_the_same_name() -> None:
    (layer,) = weights("left")
    found = initializers(quantize(network(), [layer], BOTH))
    assert found["left_weight"].dtype == np.int8
    assert np.array_equal(found["left_weight"], layer.integers)
    assert np.array_equal(found["left_weight.scale"], layer.scales)


def test_2_4_holds_on_the_integers_of_the_file() -> None:
    found = initializers(quantize(network(), weights("left", "right"), BOTH))
    assert is_2_4(found["left_weight"])
    assert is_2_4(found["right_weight"])


def test_layers_that_read_one_tensor_share_a_pair_and_others_read_the_tensor() -> None:
    proto = quantize(network(), weights("left", "right"), BOTH)
    found = readers(proto)
    assert operators(proto).count("QuantizeLinear") == 1
    assert found["left"][0] == found["right"][0] == "b.DequantizeLinear"
    assert found["add"] == ["e", "b"]


def test_any_input_may_be_read_in_int8() -> None:
    proto = quantize(network(), weights("right"), {("right", 0): STEP, ("add", 1): STEP})
    found = readers(proto)
    assert operators(proto).count("QuantizeLinear") == 1
    assert found["add"] == ["e", "b.DequantizeLinear"]
    assert found["right"][0] == "b.DequantizeLinear"
    assert found["left"][0] == "b"


def test_a_bias_is_corrected_where_that_is_asked_for() -> None:
    before = initializers(ir.to_proto(network()))["left_bias"]
    plain = initializers(quantize(network(), weights("left"), BOTH))
    corrected = initializers(quantize(network(), weights("left", bias=True), BOTH))
    assert np.array_equal(plain["left_bias"], before)
    assert np.all(corrected["left_bias"] == 0.25)


def test_the_graph_computes_what_the_integers_stand_for() -> None:
    (layer,) = weights("left")
    floats = network()
    weight = floats.graph.initializers["left_weight"]
    stored = dequantize_weight(layer.integers, layer.scales, 0).astype(np.float32)
    weight.const_value = ir.Tensor(stored, name="left_weight")
    expected = OnnxRunner(to_bytes(floats)).run(PICTURES)
    fine = {("left", 0): float(half_scale(0.02))}  # clips nearly everything
    near = {("left", 0): STEP}
    error = {}
    for name, steps in (("near", near), ("fine", fine)):
        found = OnnxRunner(quantize(network(), [layer], steps).SerializeToString()).run(PICTURES)
        error[name] = float(np.abs(found - expected).mean())
    assert error["near"] < 0.01 < error["fine"]


def test_names_of_nodes_and_tensors_stay() -> None:
    before, after = network(), quantize(network(), weights("left", "right"), BOTH)
    assert {node.name for node in before.graph} <= {node.name for node in after.graph.node}
    assert set(before.graph.initializers) <= set(initializers(after))


def test_half_graphs_get_fp16_steps_and_no_cast_at_the_weights() -> None:
    model = Half("fp16")(network()).model
    proto = quantize(model, weights("left", "right"), BOTH | {("join", 0): STEP})
    found = initializers(proto)
    kinds = {name: item.dtype for name, item in found.items() if name.endswith(".scale")}
    assert set(kinds.values()) == {np.dtype(np.float16)}
    assert readers(proto)["left"][1] == "left_weight.DequantizeLinear"
    assert operators(proto).count("Cast") == 2
    assert proto.opset_import[0].version == OPSET


def test_half_computes_what_fp32_does() -> None:
    layers = weights("left", "right")
    half = quantize(Half("fp16")(network()).model, layers, BOTH)
    full = quantize(network(), layers, BOTH)
    outputs = [OnnxRunner(proto.SerializeToString()).run(PICTURES) for proto in (half, full)]
    # An activation at the middle of two levels may go to either.
    assert np.abs(outputs[0] - outputs[1]).mean() < 0.1 * STEP


def test_an_operator_that_stays_fp32_keeps_a_type_of_its_own() -> None:
    model = Half("fp16", keep=["left"])(network()).model
    proto = quantize(model, weights("left", "right"), BOTH)
    found = initializers(proto)
    assert found["left_weight.scale"].dtype == np.float32
    assert found["right_weight.scale"].dtype == np.float16


def test_one_weight_of_two_precisions_is_stored_once() -> None:
    model = network()
    right = next(node for node in model.graph if node.name == "right")
    right.replace_input_with(1, model.graph.initializers["left_weight"])
    del model.graph.initializers["right_weight"]
    half = Half("fp16", keep=["left"])(model).model
    (layer,) = weights("left")
    both = Int8Weight(layer.weight, ("left", "right"), 0, layer.integers, layer.scales, None)
    found = initializers(quantize(half, [both], BOTH))
    assert [name for name, item in found.items() if item.dtype == np.int8 and item.ndim] == [
        "left_weight"
    ]


def test_no_layers_change_nothing() -> None:
    model = network()
    before = to_bytes(model)
    assert not Quantize([], {})(model).modified
    assert to_bytes(model) == before


def test_refuses_what_is_not_there() -> None:
    with pytest.raises(SlsError, match="nowhere: is no operator of the graph"):
        Quantize(weights("left"), BOTH | {("nowhere", 0): 1.0})(network())
    (layer,) = weights("left")
    lost = Int8Weight("lost", layer.nodes, 0, layer.integers, layer.scales, None)
    with pytest.raises(SlsError, match="lost: is no weight of the graph"):
        Quantize([lost], BOTH)(network())


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = Half("fp16")(network()).model
    proto = quantize(model, weights("left", "right"), BOTH | {("add", 1): STEP})
    shapes = ((1, 3, 16, 16), (1, 3, 32, 32), (2, 3, 64, 64))
    answer = built(proto.SerializeToString(), tmp_path / "engine.plan", *shapes)
    assert not answer.error
    assert (tmp_path / "engine.plan").stat().st_size > 0
