from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.calibration.layer_graph import input_sizes, layer_graph
from sls_deploy.errors import SlsError
from sls_deploy.sparsity.filters import Layout
from sls_deploy.sparsity.legality import is_2_4

CONV = LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), 16, 8, 2, 20, 30)
LAYERS = [
    CONV,
    replace(CONV, stride=(2, 2)),
    replace(CONV, kernel=(1, 5), stride=(1, 3)),
    replace(CONV, kernel=(2, 2)),
    replace(CONV, kernel=(1, 1), stride=(2, 2)),
    replace(CONV, dilation=(4, 4)),
    replace(CONV, stride=(2, 2), dilation=(1, 3)),
    replace(CONV, kind="ConvTranspose2d", stride=(2, 2)),
    replace(CONV, kind="ConvTranspose2d", stride=(2, 2), dilation=(2, 2)),
    replace(CONV, kind="ConvTranspose2d", kernel=(6, 2), stride=(2, 4)),
    LayerShape("Conv1d", (3,), (2,), (1,), 16, 8, 1, 20, 30),
    LayerShape("ConvTranspose1d", (2,), (2,), (1,), 16, 8, 1, 20, 30),
    LayerShape("Linear", (), (), (), 16, 8, 1, 20, 30),
    LayerShape("Linear", (), (), (), 16, 4, 1, 1, 1),
]


def weight_of(graph: onnx.ModelProto) -> np.ndarray:
    return numpy_helper.to_array(graph.graph.initializer[0])


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_runs_over_the_positions_that_it_says(layer: LayerShape) -> None:
    graph = layer_graph(layer, "fp32", sparse=False)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    given = np.ones(input_sizes(layer), np.float32)
    (output,) = session.run(["output"], {"input": given})
    assert list(output.shape) == [
        d.dim_value for d in graph.graph.output[0].type.tensor_type.shape.dim
    ]
    assert given.size == layer.read * layer.inputs * layer.groups
    assert output.size == layer.written * layer.outputs * layer.groups


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.booleans())
@settings(max_examples=80)
def test_any_kernel_stride_and_dilation_keep_the_number_of_positions(
    kernel: int, stride: int, dilation: int, side: int, transposed: bool
) -> None:
    kind = "ConvTranspose2d" if transposed else "Conv2d"
    layer = LayerShape(kind, (kernel,) * 2, (stride,) * 2, (dilation,) * 2, 1, 1, 1, side, side)
    graph = layer_graph(layer, "fp32", sparse=False)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (output,) = session.run(["output"], {"input": np.ones(input_sizes(layer), np.float32)})
    assert output.size == layer.written


def test_the_layer_computes_what_pytorch_does() -> None:
    layer = replace(CONV, kind="ConvTranspose2d", kernel=(4, 4), stride=(2, 2))
    graph = layer_graph(layer, "fp32", sparse=False)
    given = torch.rand(input_sizes(layer), generator=torch.Generator().manual_seed(0))
    wanted = torch.conv_transpose2d(
        given, torch.from_numpy(weight_of(graph).copy()), None, 2, 1, groups=2
    )
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (output,) = session.run(["output"], {"input": given.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-4)


def test_a_dilated_layer_computes_what_pytorch_does() -> None:
    layer = replace(CONV, dilation=(4, 4))
    graph = layer_graph(layer, "fp32", sparse=False)
    given = torch.rand(input_sizes(layer), generator=torch.Generator().manual_seed(0))
    weight = torch.from_numpy(weight_of(graph).copy())
    wanted = torch.conv2d(given, weight, None, 1, 4, 4, groups=2)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (output,) = session.run(["output"], {"input": given.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_only_the_sparse_layer_is_2_4(layer: LayerShape) -> None:
    legal = []
    for sparse in (False, True):
        weight = weight_of(layer_graph(layer, "fp16", sparse=sparse))
        assert weight.dtype == np.float16
        assert weight.size == layer.groups * layer.inputs * layer.outputs * math.prod(layer.kernel)
        filters = Layout(layer.groups, layer.transposed).filters(torch.from_numpy(weight.copy()))
        legal.append(is_2_4(filters.numpy()))
    assert legal == [False, True]


def test_what_cannot_be_timed_alone_is_refused() -> None:
    with pytest.raises(SlsError, match=r"LSTM .*: only Conv1d, .* can be timed"):
        layer_graph(replace(CONV, kind="LSTM"), "fp32", sparse=False)
    with pytest.raises(SlsError, match="not timed alone in int8"):
        layer_graph(CONV, "int8", sparse=False)
