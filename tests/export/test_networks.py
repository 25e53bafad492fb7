"""Every network of the registry goes through the whole export."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from sls_deploy.config import Precision
from sls_deploy.export.parity import MIN_PARITY_DB
from sls_deploy.export.results import ExportResult
from sls_deploy.runtime.onnxruntime import OnnxRunner

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def test_matches_pytorch(exported: ExportResult) -> None:
    assert all(exported.precisions[key].parity_db >= MIN_PARITY_DB[key] for key in PRECISIONS)


def test_matches_pytorch_with_activations_rounded(exported: ExportResult) -> None:
    entry = json.loads(exported.proof.read_text())["files"]["fp16"]
    assert 50 <= entry["parity_rounded"]["psnr_db"] <= entry["parity"]["psnr_db"] + 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_is_sound_onnx(exported: ExportResult, precision: Precision) -> None:
    model = onnx.load(exported.precisions[precision].file)
    onnx.checker.check_model(model, full_check=True)
    (graph_input,), (output,) = model.graph.input, model.graph.output
    assert (graph_input.name, output.name) == ("input", "output")
    for value in (graph_input, output):
        batch, channels, *sides = value.type.tensor_type.shape.dim
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert (batch.dim_param, channels.dim_value) == ("batch", 3)
        assert all(side.dim_param for side in sides)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_holds_the_search_weights_by_name(exported: ExportResult, precision: Precision) -> None:
    path = exported.precisions[precision].file
    weights = load_file(path.parents[2] / "search" / "b0.50" / "weights.safetensors")
    arrays = {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    dtype = np.float32 if precision == "fp32" else np.float16
    for name in (name for name in weights if name.endswith("weight")):
        assert np.array_equal(arrays[name], weights[name].astype(dtype))


def test_every_pruned_layer_is_proved_legal(exported: ExportResult) -> None:
    counts = exported.layers
    assert 0 < counts.eligible <= counts.legal_2_4 <= counts.total
    layers = json.loads(exported.proof.read_text())["files"]["fp16"]["layers"]
    assert all(layer["legal_2_4"] for layer in layers if layer["pruned"])
    assert all(layer["eligible"] or layer["reason"] for layer in layers)


def test_fp16_leaves_no_fp32_convolution(exported: ExportResult) -> None:
    model = onnx.load(exported.precisions["fp16"].file)
    types = {item.name: item.data_type for item in model.graph.initializer}
    used = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert {types[name] for name in used} == {onnx.TensorProto.FLOAT16}


def test_leaks_no_paths(exported: ExportResult) -> None:
    content = exported.precisions["fp32"].file.read_bytes()
    assert b".py" not in content
    assert b"File " not in content


@pytest.mark.parametrize("precision", PRECISIONS)
def test_runs_at_any_size(exported: ExportResult, precision: Precision) -> None:
    runner = OnnxRunner(exported.precisions[precision].file)
    outputs = [
        runner.run(np.zeros((n, 3, h, w), np.float32)) for n, h, w in ((3, 33, 40), (1, 21, 17))
    ]
    scale = outputs[0].shape[2] // 33
    assert [output.shape for output in outputs] == [
        (3, 3, 33 * scale, 40 * scale),
        (1, 3, 21 * scale, 17 * scale),
    ]
