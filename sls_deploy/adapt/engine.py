"""The estimator's engines, where a builder is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event

from sls_deploy.adapt.adaptation import ESTIMATOR, KEY, Adaptation
from sls_deploy.adapt.chooser import AT_ONCE, LEAST_SIDE
from sls_deploy.config import BuildConfig, Precision, Target
from sls_deploy.engine.backends import choose_backend
from sls_deploy.engine.build import Build, make
from sls_deploy.engine.device import present_device
from sls_deploy.engine.manifest import write_manifest
from sls_deploy.errors import SlsError
from sls_deploy.models.restoration import COLOURS
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run

PRECISION: Precision = "fp32"
"""Of the estimator everywhere: differences of networks are a hundredth of what it gives."""


@dataclass(frozen=True)
class EstimatorEngine:
    """An engine of the estimator, or why there is none."""

    target: Target
    """GPUs that it is for."""
    plan: Path | None
    """The engine, with its manifest beside it; None if it could not be built."""
    reason: str
    """Why it could not; empty if it stands."""


def build_estimator(
    run: Run, adaptation: Adaptation, options: BuildConfig, report: Report = silent
) -> tuple[EstimatorEngine, ...]:
    """Build the estimator for every target of the settings, unless it stands already.

    A build that fails stops nothing: ONNX Runtime runs the estimator as well.

    Args:
        run: an adapted run.
        adaptation: what is known of it.
        options: backend, targets and limits; sizes follow from the tiles.
        report: told of each target.
    """
    found = []
    with run.locked():
        for number, target in enumerate(options.architectures):
            report(Progress("adapt: build", number, len(options.architectures)))
            try:
                plan = _build(run, adaptation, options, target)
                found.append(EstimatorEngine(target, plan, ""))
            except SlsError as error:
                found.append(EstimatorEngine(target, None, str(error)))
        report(Progress("adapt: build", len(found), len(found)))
    return tuple(found)


def _build(run: Run, adaptation: Adaptation, options: BuildConfig, target: Target) -> Path:
    backend = choose_backend(options.backend, target)
    onnx = run.path / KEY / ESTIMATOR
    channels, side = COLOURS * adaptation.frames, adaptation.tile
    sizes = {
        "min_shape": (1, channels, LEAST_SIDE, LEAST_SIDE),
        "opt_shape": (AT_ONCE // 2, channels, side, side),
        "max_shape": (AT_ONCE, channels, *[side + 2 * adaptation.overlap] * 2),
    }
    build = Build(
        onnx=onnx,
        plan=onnx.with_suffix("") / f"{target}-{PRECISION}.plan",
        backend=backend,
        target=target,
        precision=PRECISION,
        budget=0.0,
        device=present_device() if backend.times_kernels else None,
        options=options.model_copy(update=sizes),
    )

    def work() -> list[Path]:
        manifest = make(build, options.memory, Event())
        return [build.plan, write_manifest(build.manifest, manifest)]

    run.stage(f"{KEY}/{build.plan.stem}", build.inputs, work, [onnx])
    return build.plan
