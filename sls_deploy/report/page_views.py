"""What the report's page shows of a run: its parts, put together and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sls_deploy.engine.evidence import Evidence
from sls_deploy.files import slug
from sls_deploy.report.charts import Chart, draw
from sls_deploy.report.schema import BudgetReport, Curve, RunReport
from sls_deploy.report.specs_curve import curve_chart
from sls_deploy.report.specs_history import history_chart, kept_rows
from sls_deploy.report.specs_layers import layers_chart
from sls_deploy.report.specs_losses import losses_chart
from sls_deploy.report.specs_speed import speed_chart
from sls_deploy.report.verdict import folder_name
from sls_deploy.runtime.bench_result import Bench
from sls_deploy.validate.figures import (
    SPARSE,
    Culprit,
    Gate,
    Loss,
    PictureFigures,
    StageFigures,
    Validation,
)


@dataclass(frozen=True)
class Drawn:
    """A chart that is drawn."""

    chart: Chart
    """What it shows."""
    svg: Markup
    """The picture."""


@dataclass(frozen=True)
class StageView:
    """One form of the network on one folder."""

    figures: StageFigures
    """What was measured of it."""
    step: Loss | None
    """What it lost against the stage that it was made from; None without truth."""
    total: Loss | None
    """What it lost against the dense network."""
    gates: tuple[Gate, ...]
    """The gates that judge it."""


@dataclass(frozen=True)
class Blame:
    """Gates that failed by one rule for one reason."""

    gates: tuple[Gate, ...]
    """The gates, at least one."""
    culprit: Culprit | None
    """The reason; None where none was looked for."""


@dataclass(frozen=True)
class FolderView:
    """One folder of pictures."""

    validation: Validation
    """What was measured on it."""
    key: str
    """Its name in ids of the page."""
    name: str
    """What it is called: the last part of its path."""
    stages: tuple[StageView, ...]
    """The forms, in the order of the flow."""
    pruned: Loss | None
    """What pruning lost; None without truth."""
    worst: Loss | None
    """The form after it that lost most; None without truth or other forms."""
    near: StageFigures | None
    """The sparse network in PyTorch, whose fidelity is told where there is no truth."""
    losses: Drawn | None
    """Where the loss comes from; None without truth."""

    @property
    def blames(self) -> tuple[Blame, ...]:
        """What failed, in the order of the gates."""
        found: dict[tuple[str, Culprit | None], list[Gate]] = {}
        for gate in self.validation.gates:
            if not gate.passed:
                found.setdefault((gate.rule, gate.culprit), []).append(gate)
        return tuple(Blame(tuple(gates), culprit) for (_, culprit), gates in found.items())

    def picture(self, stage: str, name: str) -> PictureFigures | None:
        """What was measured of a picture at a stage; None for what is no stage."""
        for view in self.stages:
            if view.figures.name == stage:
                return next((one for one in view.figures.pictures if one.name == name), None)
        return None


@dataclass(frozen=True)
class BudgetView:
    """One budget."""

    report: BudgetReport
    """What is known of it."""
    key: str
    """Its name in ids of the page."""
    folders: tuple[FolderView, ...]
    """What was measured, by folder."""
    layers: Drawn | None
    """Its layers; None where there are none."""
    history: Drawn | None
    """Its search; None where nothing was logged."""
    kept: Sequence[tuple[str, str, str]]
    """Name of every layer whose ratio was learnt, units kept at first and at last."""
    speeds: tuple[tuple[Bench, Drawn], ...]
    """What was timed."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """All its gates."""
        return tuple(gate for folder in self.folders for gate in folder.validation.gates)

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """What is known of each engine's layers."""
        return {
            name: evidence
            for folder in self.folders
            for name, evidence in folder.validation.evidence.items()
        }


def view_budgets(report: RunReport) -> tuple[BudgetView, ...]:
    """Put together and draw what is shown of each budget."""
    return tuple(_budget(budget) for budget in report.budgets)


def draw_curves(curves: Sequence[Curve], own: str) -> tuple[Drawn, ...]:
    """Draw quality against cost, a chart for each folder.

    Args:
        curves: those without points are left out.
        own: what this run is called.
    """
    shown = [curve for curve in curves if curve.points]
    return tuple(_drawn(curve_chart(curve, own), f"curve-{i}") for i, curve in enumerate(shown))


def _budget(budget: BudgetReport) -> BudgetView:
    key = slug(f"b{budget.budget:g}")
    timed = [bench for bench in budget.benches if bench.rows]
    return BudgetView(
        report=budget,
        key=key,
        folders=tuple(
            _folder(validation, f"{key}-f{place}")
            for place, validation in enumerate(budget.validations)
        ),
        layers=_drawn(layers_chart(budget), f"{key}-layers") if budget.layers else None,
        history=_drawn(history_chart(budget), f"{key}-search") if budget.history.steps else None,
        kept=kept_rows(budget.history),
        speeds=tuple(
            (bench, _drawn(speed_chart(bench), f"{key}-speed-{place}"))
            for place, bench in enumerate(timed)
        ),
    )


def _folder(validation: Validation, key: str) -> FolderView:
    totals = {loss.stage: loss for loss in validation.totals}
    later = [loss for name, loss in totals.items() if name != SPARSE]
    limit = next((gate.limit for gate in validation.gates if gate.rule == "loss"), None)
    drawable = validation.losses and validation.totals
    return FolderView(
        validation=validation,
        key=key,
        name=folder_name(validation.folder) or validation.folder,
        stages=tuple(_stages(validation)),
        pruned=totals.get(SPARSE),
        worst=max(later, key=lambda loss: loss.mean_db, default=None),
        near=next((stage for stage in validation.stages if stage.name == SPARSE), None),
        losses=_drawn(losses_chart(validation, limit), f"{key}-losses") if drawable else None,
    )


def _stages(validation: Validation) -> Iterator[StageView]:
    steps = {loss.stage: loss for loss in validation.losses}
    totals = {loss.stage: loss for loss in validation.totals}
    for figures in validation.stages:
        name = figures.name
        gates = tuple(gate for gate in validation.gates if gate.stage == name)
        yield StageView(figures, steps.get(name), totals.get(name), gates)


def _drawn(chart: Chart, key: str) -> Drawn:
    return Drawn(chart, draw(chart, key))
