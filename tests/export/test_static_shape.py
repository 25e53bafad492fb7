from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sls_deploy.config import DataConfig, ExportConfig, Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.crops import calibration_crops
from sls_deploy.export.forms import Forms
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.rounding import rounded
from sls_deploy.export.passes.slim import Slim
from sls_deploy.export.passes.static_shape import StaticShape
from sls_deploy.progress import silent
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.export.exported_graphs import exported, folded

SHAPE = (2, 3, 32, 40)
STATIC = (1, 3, 64, 64)


@pytest.mark.parametrize("name", ["rlfn", "u_shape"])
def test_every_value_gets_its_size(name: str) -> None:
    model = StaticShape(SHAPE)(exported(name)).model
    assert model.graph.inputs[0].shape == SHAPE
    values = [value for node in model.graph for value in node.outputs]
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize("name", ["rlfn", "pixel_unshuffle", "token_attention"])
def test_slimming_then_leaves_no_arithmetic_of_shapes(name: str) -> None:
    before = exported(name)
    after = Slim()(StaticShape(SHAPE)(before.clone()).model).model
    assert "Shape" in {node.op_type for node in before.graph}
    values = [value for node in after.graph for value in node.outputs]
    assert all(value.dtype == ir.DataType.FLOAT for value in values)
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    pictures = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    got = OnnxRunner(to_bytes(after), threads=1).run(pictures)
    expected = OnnxRunner(to_bytes(before), threads=1).run(pictures)
    assert np.abs(got - expected).max() < 2e-6


@pytest.fixture(scope="module")
def forms(few_photos: Path) -> Forms:
    """How windowed attention becomes each precision, with layers that stay fp32."""
    about = folded("window_attention").description
    options = ExportConfig(static_shape=STATIC, half_loss_db=1e-9, int8_loss_db=100)
    crops = partial(calibration_crops, DataConfig(), few_photos, about, 2)
    return Forms(Slim()(exported("window_attention")).model, crops, options, silent)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_layers_chosen_on_open_sizes_are_found(forms: Forms, precision: Precision) -> None:
    graph = Slim()(exported("window_attention")).model
    form = forms.of(precision)
    assert form.evidence["half"]["keep"]
    opened, _ = run_passes(graph.clone(), form.passes[:-2])
    fixed, changes = run_passes(graph.clone(), form.passes)
    assert [change.name for change in changes][-2:] == ["static shape", "slim"]
    assert len(fixed.graph) < len(opened.graph)
    onnx.checker.check_model(ir.to_proto(fixed), full_check=True)
    pictures = np.random.default_rng(0).random(STATIC, dtype=np.float32)
    got, expected = (OnnxRunner(rounded(to_bytes(m)), threads=1) for m in (fixed, opened))
    assert np.abs(got.run(pictures) - expected.run(pictures)).max() < 1e-3


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_leaves_casts_pairs_and_weights_as_they_are(forms: Forms, precision: Precision) -> None:
    form = forms.of(precision)
    opened, _ = run_passes(Slim()(exported("window_attention")).model, form.passes[:-2])
    fixed, _ = run_passes(opened.clone(), form.passes[-2:])
    kinds = ("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "MatMul")
    before, after = (
        [(node.name, node.op_type) for node in model.graph if node.op_type in kinds]
        for model in (opened, fixed)
    )
    assert before == after
    for name, value in opened.graph.initializers.items():
        assert value.const_value is not None
        if value.dtype in (ir.DataType.INT8, ir.DataType.FLOAT16) and value.const_value.size > 1:
            kept = fixed.graph.initializers[name].const_value
            assert kept is not None
            assert np.array_equal(kept.numpy(), value.const_value.numpy())


def test_fixing_twice_changes_nothing_more() -> None:
    once = StaticShape(SHAPE)(exported("rlfn")).model
    assert not StaticShape(SHAPE)(once).modified


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 9, 32, 40), "takes 3 as channels, but static_shape says 9"),
        ((0, 3, 32, 40), "takes 1 or more as batch, but static_shape says 0"),
        ((1, 3, -1, 40), "takes 1 or more as height, but static_shape says -1"),
    ],
)
def test_refuses_sizes_that_the_input_has_not(
    shape: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(SlsError, match=f"input 'input': {message}"):
        StaticShape(shape)(exported("rlfn"))


def test_refuses_another_size_than_the_one_it_was_given() -> None:
    once = StaticShape(SHAPE)(exported("rlfn")).model
    with pytest.raises(SlsError, match="takes 40 as width, but static_shape says 48"):
        StaticShape((2, 3, 32, 48))(once)


def test_refuses_sizes_that_do_not_fit_inside() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 18]>
        net (float[n, 3, h, w] input) => (float[n, 3, h, w] output) <float[1, 1, 8, 8] tile>
        { output = Add (input, tile) }
    """
    proto = onnx.parser.parse_model(text)
    tile = onnx.numpy_helper.from_array(np.zeros((1, 1, 8, 8), np.float32), "tile")
    proto.graph.initializer.append(tile)
    with pytest.raises(SlsError, match=r"net: cannot take pictures of \[1, 3, 9, 8\]"):
        StaticShape((1, 3, 9, 8))(ir.from_proto(proto))
