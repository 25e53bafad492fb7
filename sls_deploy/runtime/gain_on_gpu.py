"""Measures what sparse kernels gain for an engine of a run, on the first visible GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from sls_deploy.config import BuildConfig
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.device import present_device
from sls_deploy.engine.graph import laid_out
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest, Dimensions
from sls_deploy.engine.tactics import read_tactics, runs_sparse
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.onnx_file import read_model
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run
from sls_deploy.runtime.benchmark import benchmark
from sls_deploy.runtime.loaded_engine import LoadedEngine
from sls_deploy.runtime.sparsity_gain import EngineTimes, SparsityGain, measure_gain
from sls_deploy.runtime.tensorrt import check_gpu, check_size, check_version

_WARM_UP, _REPEATS = 20, 100
"""Runs before the first that counts, and runs of which the median is taken."""


def gain_of_engine(
    plan: Path, run: Run, shape: Dimensions | None = None, report: Report = silent
) -> SparsityGain:
    """Build the graph of an engine with and without sparse kernels, and time both.

    Args:
        plan: an engine of the run, with its manifest beside it.
        run: holds the graph.
        shape: input to time, NCHW; that which its kernels were chosen for if left out.
        report: receives a report before each build, and one at the end.

    Raises:
        SlsError: the engine or its graph is not what the manifest says, it cannot run here or take
            that input, or a build fails.
    """
    manifest = verified_manifest(plan)
    where = str(plan)
    check_gpu(manifest, where)
    check_version(manifest, where)
    shape = shape or manifest.opt_shape
    check_size(shape, manifest, where)
    graph = source_graph(manifest, run)
    model = read_model(graph)
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        request = trial_request(manifest, model, graph, Path(folder, "trial.plan"))
        return measure_gain(
            _builder(request, run.config.build),
            _timer(manifest, laid_out(model, shape), where),
            plan_sha256=manifest.plan_sha256,
            backend=manifest.backend,
            device=present_device,
            shape=shape,
            repeats=_REPEATS,
            report=report,
        )


def source_graph(manifest: EngineManifest, run: Run) -> Path:
    """The graph that an engine was built from.

    Raises:
        SlsError: it is not in the run any more, or another one by now.
    """
    graph = run.folder("export", manifest.budget) / manifest.onnx
    if not graph.is_file() or hash_file(graph) != manifest.onnx_sha256:
        what = "is not the graph that the engine was built from"
        raise SlsError(what, str(graph), "`sls-deploy build` makes the engine anew.")
    return graph


def trial_request(
    manifest: EngineManifest, model: onnx.ModelProto, graph: Path, plan: Path
) -> BuildRequest:
    """A request to build an engine once more as it was, but for kernel times of earlier builds.

    With those, all builds would choose by the same times, and agree by more than is true.
    """
    return BuildRequest(
        backend=manifest.backend,
        architectures=tuple(manifest.architecture.split("+")),
        onnx=str(graph),
        plan=str(plan),
        input_name=manifest.inputs[0].name,
        min_shape=laid_out(model, manifest.min_shape),
        opt_shape=laid_out(model, manifest.opt_shape),
        max_shape=laid_out(model, manifest.max_shape),
        options=replace(manifest.options, timing_cache=""),
    )


def _builder(request: BuildRequest, limits: BuildConfig) -> Callable[[bool], bytes]:
    def build(sparse: bool) -> bytes:
        options = replace(request.options, sparse=sparse)
        run_worker(replace(request, options=options), limits.timeout, limits.memory)
        return Path(request.plan).read_bytes()

    return build


def _timer(
    manifest: EngineManifest, shape: Dimensions, where: str
) -> Callable[[bytes], EngineTimes]:
    def time(plan: bytes) -> EngineTimes:
        engine = LoadedEngine(
            BACKENDS[manifest.backend],
            plan,
            where,
            host_code=manifest.options.version_compatible,
        )
        try:
            whole = benchmark(engine.stopwatch(shape), _WARM_UP, _REPEATS).p50
            return EngineTimes(whole, engine.profile(shape, _REPEATS), _runs_sparse(engine))
        finally:
            engine.close()

    return time


def _runs_sparse(engine: LoadedEngine) -> bool | None:
    try:
        return runs_sparse(read_tactics(engine.information()))
    except SlsError:  # an inspector that cannot be understood tells nothing; its times count
        return None
