"""Engines and networks on a real GPU: `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sls_deploy.config import BuildConfig, Config
from sls_deploy.config_file import to_toml
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from sls_deploy.runtime.loaded_engine import LoadedEngine
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures
from sls_deploy.runtime.tensorrt import EngineRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU"),
]
SHAPES = ((1, 3, 16, 16), (2, 3, 40, 64), (1, 3, 33, 47), (1, 3, 64, 64), (1, 3, 20, 20))
"""More than an engine keeps ready."""
CHANNELS = 32


def noise(shape: tuple[int, ...]) -> Pictures:
    return np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)


def write_network(path: Path) -> None:
    """Two convolutions with a ReLU in between."""
    rng = np.random.default_rng(0)
    weights = [
        rng.standard_normal(shape).astype(np.float32) / 16
        for shape in ((CHANNELS, 3, 3, 3), (3, CHANNELS, 3, 3))
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["wide"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["wide"], ["positive"], "relu"),
        helper.make_node("Conv", ["positive", "w1"], ["output"], "second", pads=[1] * 4),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    constants = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], constants)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture(scope="module", params=BACKENDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineResult:
    """A small engine of each backend that is installed."""
    if BACKENDS[request.param].load() is None:
        pytest.skip(f"{request.param} is not installed")
    run = Run.create(tmp_path_factory.mktemp(request.param) / "run")
    (run.path / "config.toml").write_text(to_toml(Config()))
    source = run.folder("export", 0.5) / "model.fp32.onnx"
    source.parent.mkdir(parents=True)
    write_network(source)
    run.stage("export/b0.50", {}, lambda: [source])
    options = BuildConfig.model_validate(
        {
            "backend": request.param,
            "architectures": [gpu_architecture()],
            "precisions": ["fp32"],
            "opt_shape": (1, 3, 32, 32),
            "max_shape": (2, 3, 64, 64),
        }
    )
    return build_engines(run, [0.5], options)[0]


Load = Callable[..., LoadedEngine]


@pytest.fixture
def load(built: EngineResult) -> Iterator[Load]:
    """Loads the engine, with or without CUDA graphs."""
    engines = []

    def loaded(*, graphs: bool, kernels: Path | None = None) -> LoadedEngine:
        backend, plan = BACKENDS[built.manifest.backend], built.plan
        engines.append(
            LoadedEngine(backend, plan.read_bytes(), plan.name, graphs=graphs, kernels=kernels)
        )
        return engines[-1]

    yield loaded
    for engine in engines:
        engine.close()


def test_an_engine_computes_what_onnx_runtime_computes(built: EngineResult) -> None:
    runner = EngineRunner(built.plan)
    reference = OnnxRunner(built.plan.parents[2] / "export" / "b0.50" / "model.fp32.onnx")
    for shape in SHAPES:
        pictures = noise(shape)
        np.testing.assert_allclose(runner.run(pictures), reference.run(pictures), atol=1e-3)
    runner.close()
    with pytest.raises(SlsError, match="was closed"):
        runner.run(pictures)


def test_cuda_graphs_change_no_picture(load: Load) -> None:
    plain, recorded = load(graphs=False), load(graphs=True)
    for shape in (*SHAPES, *SHAPES):
        np.testing.assert_array_equal(plain.run(noise(shape)), recorded.run(noise(shape)))
    assert recorded.note == ""


def test_a_replayed_graph_sees_new_input(load: Load) -> None:
    engine = load(graphs=True)
    first, second = noise(SHAPES[0]), 1 - noise(SHAPES[0])
    assert not np.array_equal(engine.run(first), engine.run(second))
    np.testing.assert_array_equal(engine.run(first), engine.run(first))


@pytest.mark.parametrize("graphs", [False, True])
def test_a_stopwatch_gives_the_time_of_the_gpu(load: Load, graphs: bool) -> None:
    stopwatch = load(graphs=graphs).stopwatch((2, 3, 64, 64))
    assert all(0 < stopwatch() < 1000 for _ in range(10))


def test_a_profile_names_the_layers(load: Load) -> None:
    times = load(graphs=True).profile((1, 3, 64, 64), repeats=5)
    assert any("first" in name for name in times)
    assert sum(times.values()) > 0


def test_the_inspector_tells_of_the_layers(load: Load) -> None:
    assert "first" in load(graphs=True).information()


def test_compiled_kernels_are_kept(load: Load, built: EngineResult, tmp_path: Path) -> None:
    if built.manifest.backend != "tensorrt_rtx":
        pytest.skip("tensorrt compiles nothing at loading")
    path = tmp_path / "kernels"
    first = load(graphs=True, kernels=path)
    expected = first.run(noise(SHAPES[0]))
    first.close()
    assert path.stat().st_size > 0
    again = load(graphs=True, kernels=path)
    np.testing.assert_array_equal(again.run(noise(SHAPES[0])), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a PyTorch with CUDA")
def test_pytorch_is_timed_on_the_gpu() -> None:
    module = nn.Conv2d(3, 64, 3, padding=1)
    on_cpu = TorchRunner(module).run(noise(SHAPES[3]))
    runner = TorchRunner(module.cuda())
    np.testing.assert_allclose(runner.run(noise(SHAPES[3])), on_cpu, atol=1e-2)
    assert 0 < runner.stopwatch(noise(SHAPES[3]))() < 1000


def test_onnx_runtime_computes_the_same_on_the_gpu(built: EngineResult) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    source = built.plan.parents[2] / "export" / "b0.50" / "model.fp32.onnx"
    runner = OnnxRunner(source, provider="cuda")
    np.testing.assert_allclose(
        runner.run(noise(SHAPES[1])), OnnxRunner(source).run(noise(SHAPES[1])), atol=1e-2
    )
    assert 0 < runner.stopwatch(noise(SHAPES[1]))() < 1000
