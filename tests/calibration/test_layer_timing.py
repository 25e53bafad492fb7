from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.calibration.layer_timing import (
    build_layer,
    layer_graph,
    make_profiler,
    measure_table,
)
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.errors import SlsError
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.sparsity.legality import is_2_4

LAYER = LayerShape("Conv2d", (3, 3), 16, 8, 2, 20, 30)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_layer_runs_and_keeps_the_size(sparse: bool) -> None:
    model = layer_graph(LAYER, "fp32", sparse=sparse)
    onnx.checker.check_model(model, full_check=True)
    picture = np.ones((1, 32, 20, 30), np.float32)
    session = open_session(model.SerializeToString())
    (output,) = run_session(session, ["output"], {"input": picture}, "layer")
    assert output.shape == (1, 16, 20, 30)


def test_only_the_sparse_layer_is_2_4() -> None:
    weights = [
        numpy_helper.to_array(layer_graph(LAYER, "fp16", sparse=sparse).graph.initializer[0])
        for sparse in (False, True)
    ]
    assert [is_2_4(weight) for weight in weights] == [False, True]
    assert all(weight.dtype == np.float16 for weight in weights)


def test_a_layer_is_built_into_an_engine() -> None:
    backend = BACKENDS["tensorrt_rtx"]
    assert build_layer(LAYER, "fp16", backend, "sm86", sparse=True)


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(SlsError, match="timed on an NVIDIA GPU, and there is none here"):
        measure_table([LAYER], (20, 30))


def test_what_is_no_convolution_is_refused() -> None:
    linear = LayerShape("Linear", (), 16, 8, 1, 20, 30)
    with pytest.raises(SlsError, match=r"Linear .*: only two-dimensional convolutions"):
        measure_table([linear], (20, 30))


@pytest.mark.parametrize(
    ("kind", "used"),
    [
        ("Runtime", {"deserialize_cuda_engine"}),
        ("ICudaEngine", {"create_execution_context", "get_tensor_shape"}),
        ("IExecutionContext", {"profiler", "set_tensor_address", "execute_async_v3"}),
        ("IProfiler", {"report_layer_time"}),
    ],
)
def test_the_installed_module_has_all_that_timing_calls(kind: str, used: set[str]) -> None:
    assert used <= set(dir(getattr(BACKENDS["tensorrt_rtx"].load(), kind)))


def test_conversions_of_layout_do_not_count() -> None:
    profiler = make_profiler(BACKENDS["tensorrt_rtx"].load())
    profiler.report_layer_time("Reformatting CopyNode for Input Tensor 0 to layer", 5.0)
    profiler.report_layer_time("layer", 2.0)
    assert profiler.milliseconds == 2


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_layers_are_measured_on_a_gpu() -> None:
    wide = LayerShape("Conv2d", (3, 3), 256, 256, 1, 180, 320)
    table = measure_table([LAYER, wide, LAYER], (180, 320))
    assert [row.inputs for row in table.rows] == [16, 256]
    assert all(row.dense_us > 0 and row.sparse_us > 0 for row in table.rows)
    assert table.look_up(wide).dense_us > table.look_up(LAYER).dense_us
