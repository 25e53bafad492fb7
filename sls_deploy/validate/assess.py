"""From stages that are ready to run to everything that is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sls_deploy.config import ValidateConfig
from sls_deploy.data.truth import TruthFolder
from sls_deploy.export.bisect import Bisection
from sls_deploy.progress import Progress, Report
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.crops import choose_pictures, write_crops
from sls_deploy.validate.culprit import find_culprit, place_of_error
from sls_deploy.validate.figures import Crop, Gate, Loss, Metric, StageFigures, Validation
from sls_deploy.validate.gate import judge
from sls_deploy.validate.losses import step_losses, total_losses
from sls_deploy.validate.measure import Stage, measure, summarise
from sls_deploy.validate.protocol import protocol_of


@dataclass(frozen=True)
class Subject:
    """What is validated, and what is known of it beside."""

    stages: tuple[Stage, ...]
    """Dense PyTorch first, then each form in the order of the flow."""
    bisect: Mapping[str, Callable[[Pictures], Bisection]]
    """What compares a stage with PyTorch value by value on one input, by the stage's name; an
    engine's compares the graph that it was built from."""
    ratios: Mapping[str, Any] | None
    """ratios.json of the search; None without one."""
    hashes: Mapping[str, str]
    """SHA-256 of what each stage was made of, by its name."""
    notes: tuple[str, ...] = ()
    """What is to be known of how stages are run, in sentences."""


@dataclass(frozen=True)
class CropFolder:
    """Where crops are written."""

    folder: Path
    """Where their files go."""
    root: Path
    """What their paths are told from."""


def assess(
    truth: TruthFolder,
    subject: Subject,
    options: ValidateConfig,
    task: str,
    report: Report,
    *,
    tile: int | None = None,
    crops: CropFolder | None = None,
) -> Validation:
    """Measure every stage on every picture, judge them, and look for who is to blame.

    Args:
        truth: the pictures.
        subject: the stages.
        options: the gates, and whether LPIPS is measured.
        task: what progress is called.
        report: receives a report after each picture.
        tile: side of the tiles in input pixels that some pictures are cut into; None if none is.
        crops: where parts of the worst and the median picture are written; None to write none.

    Returns:
        All but what is known of engines and budgets.

    Raises:
        SlsError: a picture cannot be read, a stage cannot run it, or gives NaN.
    """
    has_truth = options.degradation != "none"
    protocol = protocol_of(truth.scale, truth.degradation.note, truth=has_truth, tile=tile)
    stages = _measured(truth, subject, options, task, report, protocol.shave)
    losses = step_losses(stages, protocol.metric)
    totals = total_losses(stages, protocol.metric)
    gates = tuple(
        gate if gate.passed else _blamed(gate, truth, subject, stages, losses, protocol.metric)
        for gate in judge(stages, totals, options)
    )
    return Validation(
        budget=None,
        folder=str(truth.folder),
        pictures=len(truth),
        scale=truth.scale,
        protocol=protocol,
        stages=stages,
        losses=losses,
        totals=totals,
        not_run={},
        evidence={},
        crops=() if crops is None else _crops(truth, subject, stages, protocol.metric, crops),
        gates=gates,
        passed=all(gate.passed for gate in gates),
        hashes=dict(subject.hashes),
        notes=subject.notes,
    )


def _measured(
    truth: TruthFolder,
    subject: Subject,
    options: ValidateConfig,
    task: str,
    report: Report,
    shave: int,
) -> tuple[StageFigures, ...]:
    lpips = None
    if options.lpips:
        from sls_deploy.validate.lpips import Lpips

        lpips = Lpips()
    rows = []
    for figures in measure(truth, subject.stages, shave, lpips):
        rows.append(figures)
        report(Progress(task, len(rows), len(truth)))
    columns = zip(*rows, strict=True)
    return tuple(
        summarise(stage.id, column) for stage, column in zip(subject.stages, columns, strict=True)
    )


def _blamed(
    gate: Gate,
    truth: TruthFolder,
    subject: Subject,
    stages: Sequence[StageFigures],
    losses: Sequence[Loss],
    metric: Metric,
) -> Gate:
    degraded = truth.named(gate.picture).degraded
    runners = {stage.id.name: stage.runner for stage in subject.stages}
    judged = next(stage.id for stage in subject.stages if stage.id.name == gate.stage)

    def place() -> tuple[int, int]:
        expected = runners[judged.reference].run(degraded)
        return place_of_error(expected, runners[judged.name].run(degraded), truth.scale)

    culprit = find_culprit(
        gate,
        stages,
        losses,
        degraded,
        subject.bisect,
        subject.ratios,
        metric,
        place if judged.reference else None,
    )
    return replace(gate, culprit=culprit)


def _crops(
    truth: TruthFolder,
    subject: Subject,
    stages: Sequence[StageFigures],
    metric: Metric,
    place: CropFolder,
) -> tuple[Crop, ...]:
    found = []
    for name, why, told in choose_pictures(stages, metric):
        pair = truth.named(name)
        outputs = {stage.id.name: stage.runner.run(pair.degraded) for stage in subject.stages}
        found.append(write_crops(place.folder, place.root, pair, why, told, outputs))
    return tuple(found)
