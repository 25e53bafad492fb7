from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from sls_deploy.data.samples import sample_photos
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.export.passes.uint8_io import Uint8Pictures
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.validate.metrics import to_uint8
from tests.export.engines import built
from tests.export.exported_graphs import exported

Bytes = NDArray[np.uint8]
BYTES: Bytes = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)


def graph(body: str, constants: str = "", channels: int = 3) -> ir.Model:
    ends = f"(float[n, {channels}, h, w] input) => (float[n, {channels}, i, j] output)"
    text = f'<ir_version: 10, opset_import: ["": 18]> net {ends} <{constants}> {{ {body} }}'
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def convert(model: ir.Model) -> ir.Model:
    """The graph from bytes to bytes, checked for consistent types."""
    model = Uint8Pictures()(model).model
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def run(model: ir.Model, pictures: Bytes) -> Bytes:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(to_bytes(model), options, ["CPUExecutionProvider"])
    output: Any = session.run(["output"], {"input": pictures})[0]
    assert output.dtype == np.uint8
    return np.asarray(output)


def as_floats(pictures: Bytes) -> NDArray[np.float32]:
    """As every runner of the project makes them: NCHW, 0..1."""
    return pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_says_what_it_takes_and_gives() -> None:
    model = convert(graph("output = Relu (input)"))
    (source,), (result,) = model.graph.inputs, model.graph.outputs
    assert (source.name, result.name) == ("input", "output")
    assert source.dtype == result.dtype == ir.DataType.UINT8
    assert (str(source.shape), str(result.shape)) == ("[n,h,w,3]", "[n,i,j,3]")


def test_every_byte_comes_back() -> None:
    assert np.array_equal(run(convert(graph("output = Relu (input)")), BYTES), BYTES)


def test_clamps_on_both_sides() -> None:
    model = graph(
        "big = Mul (input, four) output = Sub (big, one)", "float four = {4}, float one = {1}"
    )
    expected = np.clip(4 * BYTES.astype(int) - 255, 0, 255)
    assert np.array_equal(run(convert(model), BYTES), expected)


def test_rounds_halves_to_even() -> None:
    body = "big = Mul (input, white) half = Mul (big, two) output = Div (half, white)"
    model = convert(graph(body, "float white = {255}, float two = {0.5}"))
    assert np.array_equal(run(model, BYTES), np.rint(BYTES * 0.5))
    assert run(model, np.full((1, 1, 1, 3), 5, np.uint8))[0, 0, 0, 0] == 2


ENDS = ["Cast", "Transpose", "Clip", "Round", "Transpose", "Cast"]


@pytest.mark.parametrize(
    ("first", "last"),
    [("Mul (input, white)", "Div (a, white)"), ("Mul (white, input)", "Mul (a, inverse)")],
)
def test_merges_with_the_scaling_of_the_network(first: str, last: str) -> None:
    constants = "float white = {255}, float[1] inverse = {0.00392156862745098}"
    unused = "" if "inverse" in last else "z = Add (a, inverse)"
    model = convert(graph(f"x = {first} a = Relu (x) {unused} output = {last}", constants))
    assert [op for op in operators(model) if op != "Add"] == [*ENDS[:2], "Relu", *ENDS[2:]]
    assert np.array_equal(run(model, BYTES), BYTES)


def test_scaling_alone_leaves_nothing() -> None:
    model = convert(graph("x = Mul (input, white) output = Div (x, white)", "float white = {255}"))
    assert operators(model) == ENDS
    assert np.array_equal(run(model, BYTES), BYTES)


def test_other_readers_of_the_input_get_it_scaled() -> None:
    body = "x = Mul (input, white) y = Div (x, white) a = Add (y, input) output = Mul (a, half)"
    model = convert(graph(body, "float white = {255}, float half = {0.5}"))
    assert operators(model).count("Div") == 2
    assert np.array_equal(run(model, BYTES), BYTES)


def test_sizes_are_read_from_the_moved_picture() -> None:
    body = """
        size = Shape (input) x = Mul (input, white) flat = Reshape (x, line)
        y = Reshape (flat, size) output = Div (y, white)
    """
    model = convert(graph(body, "float white = {255}, int64[1] line = {-1}"))
    assert "Div" not in operators(model)
    assert np.array_equal(run(model, BYTES), BYTES)


def test_several_frames_lie_along_the_channels() -> None:
    model = convert(graph("output = Relu (input)", channels=9))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 9), dtype=np.uint8)
    assert np.array_equal(run(model, pictures), pictures)


def test_converting_twice_changes_nothing_more() -> None:
    once = convert(graph("output = Relu (input)"))
    assert not Uint8Pictures()(once).modified


def crops() -> Bytes:
    photos = [photo for photo in sample_photos().values() if photo.shape[2] == 3]
    return np.stack([photo[96:144, 96:152] for photo in photos])


@pytest.mark.parametrize("name", ["edsr", "carn", "upsample_bilinear"])
def test_photographs_come_out_as_those_of_the_float_graph(name: str) -> None:
    model = exported(name)
    pictures = crops()
    floats = OnnxRunner(to_bytes(model), threads=1).run(as_floats(pictures)).transpose(0, 2, 3, 1)
    expected, got = to_uint8(floats), run(convert(model), pictures)
    # A byte may differ only where float rounding decides between two.
    scaled = np.clip(floats.astype(np.float64), 0, 1) * 255
    tie = np.abs(scaled - np.floor(scaled) - 0.5) < 2.0**-14
    assert np.array_equal(got[~tie], expected[~tie])
    assert tie.mean() < 1e-2
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_ends_of_half_graphs_stay_exact(precision: HalfPrecision) -> None:
    half = Half(precision)(exported("edsr")).model
    pictures = crops()[:2]
    floats = RoundedFloat32()(half.clone()).model
    expected = OnnxRunner(to_bytes(floats), threads=1).run(as_floats(pictures))
    bytes_graph = convert(half)
    assert operators(bytes_graph)[:3] == ["Cast", "Transpose", "Cast"]
    assert operators(bytes_graph)[-5:] == ["Cast", "Clip", "Round", "Transpose", "Cast"]
    got = run(RoundedFloat32()(bytes_graph).model, pictures)
    differing = got != to_uint8(expected.transpose(0, 2, 3, 1))
    # Half numbers of 128 to 255 are often halves exactly, and the float graph then divides by 255.
    halves = np.abs(expected.transpose(0, 2, 3, 1) * np.float64(255) % 1 - 0.5) < 2.0**-14
    assert not differing[~halves].any()


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    model = convert(Half("bf16")(exported("rlfn")).model)
    shapes = ((1, 16, 16, 3), (1, 32, 32, 3), (2, 64, 64, 3))
    answer = built(to_bytes(model), tmp_path / "engine.plan", *shapes)
    assert (answer.inputs[0].dtype, answer.outputs[0].dtype) == ("UINT8", "UINT8")
    assert answer.outputs[0].shape == (-1, -1, -1, 3)
