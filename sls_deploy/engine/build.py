"""One engine: from its graph to the plan and the manifest, by the cache if it was built before."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import onnx

from sls_deploy._version import __version__
from sls_deploy.config import BuildConfig, Precision, Target
from sls_deploy.engine.backend import Backend
from sls_deploy.engine.cache import BuiltEngine, EngineCache
from sls_deploy.engine.device import Device, present_device
from sls_deploy.engine.evidence import gather_evidence
from sls_deploy.engine.graph import check_shapes, fit_shapes, laid_out
from sls_deploy.engine.manifest import EngineManifest, remember_built
from sls_deploy.engine.preflight import check_layers, name_layer
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildOptions, BuildRequest
from sls_deploy.engine.timing_cache import timing_cache_file
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic, cache_folder, hash_file, hash_json
from sls_deploy.onnx_file import read_model

_SHAPES = ("min_shape", "opt_shape", "max_shape")


@dataclass(frozen=True)
class Build:
    """One engine to build."""

    onnx: Path
    """Its graph."""
    plan: Path
    """Where it is written."""
    backend: Backend
    """What builds it."""
    target: Target
    """GPUs that it is for."""
    precision: Precision
    """Precision of the graph."""
    budget: float
    """Budget that the network was searched for."""
    device: Device | None
    """GPU that kernels are timed on; None if none are."""
    options: BuildConfig
    """Sizes, limits and what the builder is told."""

    @property
    def manifest(self) -> Path:
        """Where its manifest is written."""
        return self.plan.with_suffix(".json")

    @property
    def told(self) -> BuildOptions:
        """What the builder is told."""
        options, device = self.options, self.device
        times = ""
        if device is not None and options.timing_cache is not False:
            times = str(timing_cache_file(cache_folder(), device, str(self.backend.version)))
        return BuildOptions(
            workspace_mib=options.workspace_mib,
            optimization_level=options.optimization_level,
            aux_streams=options.aux_streams,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            timing_cache=times,
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """All that the engine depends on beside its graph, as JSON values."""
        device = self.device and [self.device.name, self.device.driver]
        return {
            "backend": [self.backend.name, self.backend.version],
            "target": self.target,
            "precision": self.precision,
            "shapes": [getattr(self.options, name) for name in _SHAPES],
            "options": {**asdict(self.told), "timing_cache": ""},
            "device": device,
            "sls_deploy": __version__,
        }


def make(build: Build, memory_mib: int, stop: Event) -> EngineManifest:
    """Build an engine, or take it from the cache; write the plan, return its manifest.

    Args:
        build: what to build.
        memory_mib: memory that the build may take, in MiB.
        stop: when it is set, the build is given up.

    Raises:
        MemoryLimitError: it takes more memory.
        SlsError: the graph or the sizes are unsound, the vendor refused, or time ran out.
    """
    model = read_model(build.onnx)
    layers = check_layers(model, str(build.onnx))
    fitted = fit_shapes(model, build.options)
    input_name = check_shapes(model, fitted, str(build.onnx))
    graph = hash_file(build.onnx)
    cache = EngineCache(cache_folder() / "engines", build.options.engine_cache_mib)
    key = hash_json({**build.inputs, "graph": graph})
    found = cache.take(key, build.plan) if cache.limit_mib else None
    warnings: tuple[str, ...] = ()
    if found:
        built = found
    else:
        request = _request(build, model, fitted, input_name)
        built = _built(build, request, layers, memory_mib, stop)
        try:
            cache.keep(key, built)
        except SlsError as error:
            warnings = (f"the engine was not kept for later builds: {error}",)
    answer = built.answer
    manifest = EngineManifest(
        plan=build.plan.name,
        plan_sha256=built.plan_sha256,
        plan_bytes=build.plan.stat().st_size,
        onnx=build.onnx.name,
        onnx_sha256=graph,
        backend=build.backend.name,
        backend_version=str(build.backend.version),
        sls_deploy_version=__version__,
        architecture=build.target,
        device=built.device,
        options=replace(build.told, timing_cache=Path(build.told.timing_cache).name),
        precision=build.precision,
        budget=build.budget,
        min_shape=fitted.min_shape,
        opt_shape=fitted.opt_shape,
        max_shape=fitted.max_shape,
        inputs=answer.inputs,
        outputs=answer.outputs,
        strongly_typed=True,
        from_cache=found is not None,
        seconds=built.seconds,
        peak_mib=answer.peak_mib,
        warnings=answer.warnings + warnings,
        evidence=gather_evidence(model, build.plan.read_bytes(), answer.sparsity_log),
    )
    remember_built(manifest)
    return manifest


def _request(
    build: Build, model: onnx.ModelProto, sizes: BuildConfig, input_name: str
) -> BuildRequest:
    """What a worker is asked for; the plan's path is given later."""
    return BuildRequest(
        backend=build.backend.name,
        architectures=tuple(build.target.split("+")),
        onnx=str(build.onnx),
        plan="",
        input_name=input_name,
        min_shape=laid_out(model, sizes.min_shape),
        opt_shape=laid_out(model, sizes.opt_shape),
        max_shape=laid_out(model, sizes.max_shape),
        options=build.told,
    )


def _built(
    build: Build, request: BuildRequest, layers: dict[str, str], memory_mib: int, stop: Event
) -> BuiltEngine:
    """Build the plan in a worker process."""
    start = time.monotonic()
    with atomic(build.plan) as temporary:
        try:
            request = replace(request, plan=str(temporary))
            answer = run_worker(request, build.options.timeout, memory_mib, stop)
        except SlsError as error:
            raise type(error)(name_layer(error.what, layers), error.where, error.fix) from None
    seconds = round(time.monotonic() - start, 2)
    device = present_device() if build.device else None  # its clocks as they are under load
    return BuiltEngine(build.plan, hash_file(build.plan), answer, seconds, device)
