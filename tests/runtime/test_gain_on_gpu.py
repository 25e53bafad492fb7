from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.errors import SlsError
from sls_deploy.onnx_file import read_model
from sls_deploy.run import Run
from sls_deploy.runtime import gain_on_gpu, tensorrt
from sls_deploy.runtime.gain_on_gpu import gain_of_engine, source_graph, trial_request
from sls_deploy.runtime.sparsity_gain import BUILDS
from tests.engine.conftest import build_options, make_network, make_run, record_export
from tests.runtime import cuda_double
from tests.runtime.cuda_double import CudaDouble

WIDE = ((3, 512, 1), (512, 512, 1), (512, 512, 1), (512, 12, 1))
"""(C_in, C_out, groups): wide enough for sparse kernels to be faster, NVIDIA/TensorRT 3849."""


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


class Trials:
    """Builds of the engine without the worker, and the double of a GPU that runs them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
        self.requests: list[BuildRequest] = []
        self.kernels = {True: "", False: ""}
        """Kernel that the inspector names, by whether sparse ones were allowed; '' for none."""
        monkeypatch.setattr(gain_on_gpu, "run_worker", self._build)
        monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
        monkeypatch.setattr(
            cuda_double._Engine,
            "create_engine_inspector",
            lambda engine: SimpleNamespace(get_engine_information=self._told),
        )
        cuda = CudaDouble(monkeypatch)
        monkeypatch.setitem(BACKENDS, backend, cuda.backend(backend))

    def _build(self, request: BuildRequest, *limits: float) -> None:
        self.requests.append(request)
        Path(request.plan).write_bytes(b"plan")

    def _told(self, form: object) -> str:
        tactic = self.kernels[self.requests[-1].options.sparse]
        return json.dumps({"Layers": [{"Name": "conv1", "TacticName": tactic}] if tactic else []})


def test_only_sparse_kernels_are_switched(
    made: tuple[Run, EngineResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, engine = made
    trials = Trials(monkeypatch, engine.manifest.backend)
    gain_of_engine(engine.plan, run)
    allowed = [request.options.sparse for request in trials.requests]
    assert (allowed.count(True), allowed.count(False)) == (BUILDS, BUILDS)
    alike = replace(trials.requests[0].options, sparse=True)
    assert {replace(request.options, sparse=True) for request in trials.requests} == {alike}


@pytest.mark.parametrize(
    ("without", "expected"), [("a_sparse_conv", False), ("a_dense_conv", True), ("", None)]
)
def test_engines_without_sparse_kernels_are_asked_whether_they_run_some(
    without: str,
    expected: bool | None,
    made: tuple[Run, EngineResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, engine = made
    trials = Trials(monkeypatch, engine.manifest.backend)
    trials.kernels = {True: "a_sparse_conv", False: without}
    assert gain_of_engine(engine.plan, run).dense_is_dense is expected


def test_an_inspector_that_cannot_be_understood_leaves_the_times(
    made: tuple[Run, EngineResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, engine = made
    trials = Trials(monkeypatch, engine.manifest.backend)
    monkeypatch.setattr(trials, "_told", lambda form: "no JSON")
    gain = gain_of_engine(engine.plan, run)
    assert gain.dense_is_dense is None
    assert len(gain.dense_ms) == BUILDS


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_a_gain_is_measured(made: tuple[Run, EngineResult]) -> None:
    run, engine = made
    gain = gain_of_engine(engine.plan, run)
    assert gain.plan_sha256 == engine.manifest.plan_sha256
    assert gain.device is not None
    assert gain.layers
    if engine.manifest.backend == "tensorrt":
        assert gain.dense_is_dense is not False


@pytest.mark.gpu
@pytest.mark.skipif(
    gpu_architecture() is None or BACKENDS["tensorrt"].load() is None,
    reason="needs an NVIDIA GPU and tensorrt",
)
def test_wide_layers_gain_from_sparse_kernels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_network(run.folder("export", 0.5) / "model.fp16.onnx", "fp16", WIDE)
    record_export(run)
    options = build_options(architectures=(gpu_architecture(),), backend="tensorrt")
    engine = build_engines(run, [0.5], options)[0]
    gain = gain_of_engine(engine.plan, run, (2, 3, 64, 64))
    assert (engine.manifest.evidence.level, gain.dense_is_dense) == ("L3", True)
    assert gain.verdict == "faster"
