from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.metadata import Metadata
from sls_deploy.export.passes.slim import Slim
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.conftest import SMALL
from tests.export.exported_graphs import exported

NETWORKS = (
    *SMALL, "gates", "pixel_unshuffle", "token_attention", "squeeze_linear", "u_shape",
)  # fmt: skip
# Their operators are those of RLFN and EDSR.
REPEATED = ("rfdn", "carn")


def graph(body: str, constants: str = "") -> ir.Model:
    ends = "(float[n, 3, h, w] input) => (float[n, i, j, k] output)"
    text = f'<ir_version: 10, opset_import: ["": 18]> net {ends} <{constants}> {{ {body} }}'
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in REPEATED else ()) for name in NETWORKS],
)
def test_keeps_outputs_weights_and_names(name: str) -> None:
    before = exported(name)
    result = Slim()(before)
    after = ir.to_proto(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert len(after.graph.node) <= len(before.graph)
    assert result.modified == (len(after.graph.node) < len(before.graph))
    assert {node.name for node in after.graph.node} <= {node.name for node in before.graph}
    arrays = {item.name: numpy_helper.to_array(item) for item in after.graph.initializer}
    layers = {
        value.name: value.const_value.numpy()
        for node in before.graph
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
        for value in node.inputs
        if value is not None and value.name is not None and value.const_value is not None
    }
    assert all(np.array_equal(arrays[key], layers[key]) for key in layers)
    for size in ((2, 32, 40), (1, 24, 64)):
        pictures = np.random.default_rng(0).random((size[0], 3, *size[1:]), dtype=np.float32)
        got = OnnxRunner(to_bytes(result.model), threads=1).run(pictures)
        expected = OnnxRunner(to_bytes(before), threads=1).run(pictures)
        assert np.abs(got - expected).max() < 2e-6


def test_really_removes_something() -> None:
    assert operators(Slim()(exported("token_attention")).model).count("Slice") < 9
    assert len(Slim()(exported("token_attention")).model.graph) <= 40


def test_keeps_open_sizes_and_metadata() -> None:
    before = Metadata({"version": "1"})(exported("edsr")).model
    after = Slim()(before).model
    assert after.metadata_props == before.metadata_props
    assert (after.producer_name, after.graph.name) == (before.producer_name, "edsr")
    shapes = [{v.name: str(v.shape) for n in m.graph for v in n.outputs} for m in (before, after)]
    assert shapes[0] == shapes[1]
    assert str(after.graph.inputs[0].shape) == "[batch,3,height,width]"


def test_leaves_its_input_alone_and_gives_the_same_bytes_twice() -> None:
    model = exported("token_attention")
    before = to_bytes(model)
    first, second = (to_bytes(Slim()(model).model) for _ in range(2))
    assert first == second != before
    assert to_bytes(model) == before


def test_slimming_twice_changes_nothing_more() -> None:
    once = Slim()(exported("token_attention")).model
    assert not Slim()(once).modified


def test_is_quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Slim()(exported("gates"))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_folds_what_is_constant() -> None:
    model = graph(
        "c = Mul (two, three) output = Add (input, c)", "float two = {2}, float three = {3}"
    )
    after = Slim()(model).model
    assert operators(after) == ["Add"]
    assert [value.const_value.numpy() for value in after.graph.initializers.values()] == [6]  # type: ignore[union-attr]


def test_removes_what_does_nothing() -> None:
    body = """
        a = Identity (input) b = Mul (a, one) c = Transpose <perm = [0, 1, 2, 3]> (b)
        output = Relu (c)
    """
    assert operators(Slim()(graph(body, "float one = {1}")).model) == ["Relu"]


def test_zero_padding_goes_into_the_convolution() -> None:
    weights = "float[2, 3, 3, 3] weight = {" + ", ".join(["1"] * 54) + "}"
    body = "a = Pad (input, pads) [conv] output = Conv (a, weight)"
    model = graph(body, f"int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, {weights}")
    after = Slim()(model).model
    assert operators(after) == ["Conv"]
    assert set(after.graph.initializers) == {"weight"}
    pictures = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    first, second = (OnnxRunner(to_bytes(item)).run(pictures) for item in (model, after))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "following", ["output = Mul (a, f)", "output = Add (a, f)", "output = Identity (a)"]
)
def test_does_not_touch_the_weights_of_a_convolution(following: str) -> None:
    weights = "float[2, 3, 1, 1] weight = {1, 2, 3, 4, 5, 6}, float[2, 1, 1] f = {7, 8}"
    after = Slim()(graph(f"a = Conv (input, weight) {following}", weights)).model
    value = after.graph.initializers["weight"].const_value
    assert value is not None
    assert value.numpy().ravel().tolist() == [1, 2, 3, 4, 5, 6]


def test_says_what_it_cannot_read() -> None:
    model = graph("output = Relu (input)")
    model.graph[0].op_type = "Loop"
    model.graph[0].attributes["body"] = ir.AttrInt64("body", 1)
    with pytest.raises(SlsError, match="net: cannot be slimmed"):
        Slim()(model)
