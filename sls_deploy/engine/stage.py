"""The stage 'build': exported graphs -> engines with their manifests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sls_deploy._version import __version__
from sls_deploy.config import Architecture, BuildConfig, Precision
from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import choose_backend
from sls_deploy.engine.evidence import gather_evidence
from sls_deploy.engine.graph import check_shapes, fit_shapes, laid_out
from sls_deploy.engine.manifest import EngineManifest, read_manifest, write_manifest
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic, hash_file
from sls_deploy.onnx_file import read_model
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run, budget_name


@dataclass(frozen=True)
class EngineResult:
    """One engine that stands in the run folder."""

    plan: Path
    """The engine."""
    manifest_path: Path
    """Its manifest."""
    manifest: EngineManifest
    """What is known of it."""
    skipped: bool
    """Whether it stood already, built from the same inputs."""


@dataclass(frozen=True)
class _Job:
    """One engine to build."""

    onnx: Path
    plan: Path
    backend: Backend
    architecture: Architecture
    precision: Precision
    budget: float


def build_engines(
    run: Run, budget: float, options: BuildConfig, report: Report = silent
) -> tuple[EngineResult, ...]:
    """Build an engine for every architecture and precision, unless it stands already.

    Args:
        run: holds the exported graphs.
        budget: an exported budget.
        options: what to build.
        report: receives one report for each engine, and one at the end.

    Raises:
        SlsError: the budget or a precision was not exported, no backend serves an architecture,
            the graph or the input sizes are unsound, or the vendor refused the graph.
    """
    with run.locked():
        jobs = _jobs(run, budget, options)
        results = []
        for number, job in enumerate(jobs):
            report(Progress(f"build {job.plan.stem}", number, len(jobs)))
            results.append(_stage(run, job, options))
        report(Progress("build", len(jobs), len(jobs)))
    return tuple(results)


def _jobs(run: Run, budget: float, options: BuildConfig) -> list[_Job]:
    """All engines to build; what is missing shows before the first is built."""
    exported = run.require("export", budget)
    jobs = []
    for architecture, precision in itertools.product(options.architectures, options.precisions):
        form, suffix = (".uint8", "-uint8") if options.io == "uint8" else ("", "")
        onnx = exported / f"model.{precision}{form}.onnx"
        if not onnx.is_file():
            asked = f"--precision {precision}" + (" --io uint8" if form else "")
            fix = f"`sls-deploy export --budget {budget:g} {asked}` does it."
            told = f"{precision} for bytes" if form else precision
            raise SlsError(f"budget {budget:g} was not exported in {told}", str(run.path), fix)
        backend = choose_backend(options.backend, architecture)
        plan = run.folder("engines", budget) / f"{architecture}-{precision}{suffix}.plan"
        jobs.append(_Job(onnx, plan, backend, architecture, precision, budget))
    return jobs


def _stage(run: Run, job: _Job, options: BuildConfig) -> EngineResult:
    inputs = {
        "backend": [job.backend.name, job.backend.version],
        "architecture": job.architecture,
        "precision": job.precision,
        "shapes": [options.min_shape, options.opt_shape, options.max_shape],
        "sls_deploy": __version__,
    }
    path = job.plan.with_suffix(".json")
    key = f"engines/{budget_name(job.budget)}/{job.plan.stem}"
    _, skipped = run.stage(key, inputs, lambda: _build(job, options, path), [job.onnx])
    return EngineResult(job.plan, path, read_manifest(path), skipped)


def _build(job: _Job, options: BuildConfig, path: Path) -> Iterable[Path]:
    where = str(job.onnx)
    model = read_model(job.onnx)
    options = fit_shapes(model, options)
    input_name = check_shapes(model, options, where)
    start = time.monotonic()
    with atomic(job.plan) as temporary:
        request = BuildRequest(
            backend=job.backend.name,
            architectures=tuple(job.architecture.split("+")),
            onnx=str(job.onnx),
            plan=str(temporary),
            answer="",
            input_name=input_name,
            min_shape=laid_out(model, options.min_shape),
            opt_shape=laid_out(model, options.opt_shape),
            max_shape=laid_out(model, options.max_shape),
        )
        answer = run_worker(request, options.timeout)
    seconds = time.monotonic() - start
    manifest = EngineManifest(
        plan=job.plan.name,
        plan_sha256=hash_file(job.plan),
        plan_bytes=job.plan.stat().st_size,
        onnx=job.onnx.name,
        onnx_sha256=hash_file(job.onnx),
        backend=job.backend.name,
        backend_version=str(job.backend.version),
        sls_deploy_version=__version__,
        architecture=job.architecture,
        precision=job.precision,
        budget=job.budget,
        min_shape=options.min_shape,
        opt_shape=options.opt_shape,
        max_shape=options.max_shape,
        inputs=answer.inputs,
        outputs=answer.outputs,
        sparse_weights=True,
        strongly_typed=True,
        seconds=round(seconds, 2),
        peak_mib=answer.peak_mib,
        warnings=answer.warnings,
        evidence=gather_evidence(model, job.plan.read_bytes(), answer.sparsity_log),
    )
    return job.plan, write_manifest(path, manifest)
