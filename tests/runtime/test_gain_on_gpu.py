from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.errors import SlsError
from sls_deploy.onnx_file import read_model
from sls_deploy.run import Run
from sls_deploy.runtime.gain_on_gpu import gain_of_engine, source_graph, trial_request
from tests.engine.conftest import build_options, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, EngineResult]:
    """A run with one engine."""
    run = make_run(tmp_path_factory.mktemp("gain") / "run")
    target = gpu_architecture() or "sm86"
    backend = "tensorrt_rtx" if gpu_architecture() is None else "auto"
    options = build_options(architectures=(target,), backend=backend)
    return run, build_engines(run, [0.5], options)[0]


def test_a_trial_is_the_engine_built_again(made: tuple[Run, EngineResult], tmp_path: Path) -> None:
    run, engine = made
    graph = source_graph(engine.manifest, run)
    plan = tmp_path / "trial.plan"
    request = trial_request(engine.manifest, read_model(graph), graph, plan)
    assert request.opt_shape == engine.manifest.opt_shape
    assert request.options.timing_cache == ""
    answer = run_worker(request, 120)
    assert plan.stat().st_size == pytest.approx(engine.manifest.plan_bytes, rel=0.1)
    assert (answer.inputs, answer.outputs) == (engine.manifest.inputs, engine.manifest.outputs)


def test_another_graph_than_the_engines_is_refused(made: tuple[Run, EngineResult]) -> None:
    run, engine = made
    graph = run.folder("export", 0.5) / engine.manifest.onnx
    content = graph.read_bytes()
    try:
        graph.write_bytes(content + b"\0")
        with pytest.raises(SlsError, match="is not the graph that the engine was built from"):
            source_graph(engine.manifest, run)
    finally:
        graph.write_bytes(content)


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_without_a_gpu_nothing_is_built(made: tuple[Run, EngineResult]) -> None:
    run, engine = made
    with pytest.raises(
        SlsError, match=r"needs an NVIDIA GPU of compute capability 8\.6, and there"
    ):
        gain_of_engine(engine.plan, run)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_a_gain_is_measured(made: tuple[Run, EngineResult]) -> None:
    run, engine = made
    gain = gain_of_engine(engine.plan, run)
    assert gain.plan_sha256 == engine.manifest.plan_sha256
    assert gain.device is not None
    assert gain.layers
    # The network is far too small to gain anything: its kernels take microseconds.
    assert 0.5 < gain.gain < 2
