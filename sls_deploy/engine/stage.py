"""The stage 'build': exported graphs -> engines with their manifests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sls_deploy.config import BuildConfig, Precision
from sls_deploy.engine.backends import check_options, choose_backend
from sls_deploy.engine.build import Build, make
from sls_deploy.engine.device import present_device
from sls_deploy.engine.manifest import EngineManifest, read_manifest, write_manifest
from sls_deploy.engine.pool import work_through
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.exported import graph_file

_IN_BYTES = "-uint8"
"""What stems of engines from bytes to bytes end with."""
_USUAL_MIB = 1024
"""Memory that builds get if their number is left to us, in MiB: they took 0.2 to 0.4 GiB."""


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


def build_engines(
    run: Run, budgets: Sequence[float], options: BuildConfig, report: Report = silent
) -> tuple[EngineResult, ...]:
    """Build an engine for every budget, target and precision, unless it stands already.

    Several are built at a time, each in a process of its own, all within `options.memory`. A
    build that fails does not stop the others.

    Args:
        run: holds the exported graphs.
        budgets: exported budgets.
        options: what to build.
        report: receives a report whenever an engine is done.

    Raises:
        SlsError: a budget or a precision was not exported, no backend serves a target, or a
            setting means nothing to it; after all builds, the first that failed: the graph or the
            input sizes are unsound, the vendor refused, or time or memory ran out.
    """
    with run.locked():
        _sweep(run)
        builds = _builds(run, budgets, options)
        graphs = {graph: run.hashes([graph]) for graph in {build.onnx for build in builds}}
        skipped = {build.plan for build in builds if _stands(run, build, graphs[build.onnx])}
        todo = [build for build in builds if build.plan not in skipped]
        failed = []
        if todo:
            report(Progress("build", 0, len(todo)))
        at_once = _at_once(todo, options)
        for number, end in enumerate(work_through(todo, at_once, options.memory, make), 1):
            if end.answer is None:
                failed.append(end)
            else:
                path = write_manifest(end.job.manifest, end.answer)
                run.record(
                    engine_key(end.job.budget, end.job.plan),
                    end.job.inputs,
                    graphs[end.job.onnx],
                    [end.job.plan, path],
                    end.answer.seconds,
                    end.answer.peak_mib,
                )
            report(Progress("build", number, len(todo)))
    if failed:
        raise _failure([end.error for end in failed if end.error], len(todo))
    return tuple(
        EngineResult(
            build.plan, build.manifest, read_manifest(build.manifest), build.plan in skipped
        )
        for build in builds
    )


def engine_key(budget: float, plan: Path) -> str:
    """Name of an engine in the run's manifest, such as 'engines/b0.50/sm86-fp16'."""
    return f"engines/{budget_name(budget)}/{plan.stem}"


def in_bytes(plan: Path) -> bool:
    """Whether an engine of a run takes bytes, by its file name."""
    return plan.stem.endswith(_IN_BYTES)


def precision_of(plan: Path) -> str:
    """Precision of an engine of a run, by its file name, such as 'sm86-fp16-uint8.plan'."""
    return plan.stem.removesuffix(_IN_BYTES).rpartition("-")[2]


def _failure(errors: Sequence[SlsError], jobs: int) -> SlsError:
    """The first error; how many others there were, where not all builds are the same one."""
    first = errors[0]
    if jobs == 1:
        return first
    told = f"{first.what} ({len(errors)} of {jobs} builds failed, the others are done)"
    return SlsError(told, first.where, first.fix)


def _builds(run: Run, budgets: Sequence[float], options: BuildConfig) -> list[Build]:
    """All engines to build; what is missing shows before the first is built."""
    device = present_device()
    backends = {target: choose_backend(options.backend, target) for target in options.architectures}
    for backend in backends.values():
        check_options(backend, options)
    exports = {budget: run.require("export", budget) for budget in budgets}
    graphs = {
        (budget, precision): _graph(run, exported, budget, precision, options.io)
        for budget, exported in exports.items()
        for precision in options.precisions
    }
    suffix = _IN_BYTES if options.io == "uint8" else ""
    wanted = itertools.product(budgets, options.architectures, options.precisions)
    return [
        Build(
            onnx=graphs[budget, precision],
            plan=run.folder("engines", budget) / f"{target}-{precision}{suffix}.plan",
            backend=backends[target],
            target=target,
            precision=precision,
            budget=budget,
            device=device if backends[target].times_kernels else None,
            options=options,
        )
        for budget, target, precision in dict.fromkeys(wanted)
    ]


def _graph(run: Run, exported: Path, budget: float, precision: Precision, io: str) -> Path:
    onnx = graph_file(exported, precision, io)
    if not onnx.is_file():
        asked = f"--precision {precision}" + (" --io uint8" if io == "uint8" else "")
        fix = f"`sls-deploy export --budget {budget:g} {asked}` does it."
        told = f"{precision} for bytes" if io == "uint8" else precision
        raise SlsError(f"budget {budget:g} was not exported in {told}", str(run.path), fix)
    return onnx


def _sweep(run: Run) -> None:
    """Remove what a process that was killed left half written."""
    for path in (run.path / "engines").glob("*/.*"):
        path.unlink(missing_ok=True)


def _stands(run: Run, build: Build, graph: Mapping[str, str]) -> bool:
    """Whether the engine was built from these inputs, and its manifest is one of this version."""
    if not run.finished(engine_key(build.budget, build.plan), build.inputs, graph):
        return False
    try:
        read_manifest(build.manifest)
    except SlsError:
        return False
    return True


def _at_once(builds: Sequence[Build], options: BuildConfig) -> int:
    """How many builds at a time: one where kernels are timed, else as cores and memory allow."""
    if any(build.backend.times_kernels for build in builds):
        return 1
    return options.jobs or max(1, min(_cores(), options.memory // _USUAL_MIB))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
