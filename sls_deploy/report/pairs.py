"""One budget of two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sls_deploy.report.comparison import (
    BudgetPair,
    CostPair,
    EnginePair,
    FolderPair,
    LayerPair,
    StagePair,
    TimePair,
)
from sls_deploy.report.curves import alike, headline, same_pictures
from sls_deploy.report.schema import BudgetReport
from sls_deploy.report.timed import place_of
from sls_deploy.runtime.bench_result import Bench, BenchRow
from sls_deploy.validate.figures import StageFigures, Validation
from sls_deploy.validate.losses import bootstrap_interval


def pair_budgets(
    value: float, a: BudgetReport | None, b: BudgetReport | None, *, same_network: bool
) -> BudgetPair:
    """A budget of two runs.

    Args:
        value: the budget.
        a: of the first run; None if it does not have it.
        b: of the second run.
        same_network: whether both pruned the same dense network.
    """
    found = BudgetPair(
        budget=value,
        in_a=a is not None,
        in_b=b is not None,
        costs=tuple(_costs(a, b)),
        folders=(),
        layers=(),
        engines=tuple(_engines(a, b)),
        times=(),
    )
    if a is None or b is None:
        return found
    return replace(
        found,
        folders=tuple(_folders(a, b, same_network=same_network)),
        layers=tuple(_layers(a, b)) if same_network else (),
        times=tuple(_times(a, b)),
    )


def comparable(a: Validation, b: Validation, *, same_network: bool) -> bool:
    """Whether two validations speak of the same pictures, as far as that can be told.

    The same dense network gives the same figure on them; of different networks only the names of
    the pictures and the way they were measured tell.
    """
    return same_pictures(a, b) if same_network else alike(a, b)


def _costs(a: BudgetReport | None, b: BudgetReport | None) -> Iterator[CostPair]:
    first, second = (
        {cost.model: cost for cost in reversed(side.costs)} if side else {} for side in (a, b)
    )
    for model in dict.fromkeys([*reversed(first), *reversed(second)]):
        # Times are those of one machine; they stand in `times`, form by form.
        if model != "measured":
            yield CostPair(model, first.get(model), second.get(model))


def _folders(a: BudgetReport, b: BudgetReport, *, same_network: bool) -> Iterator[FolderPair]:
    for first in a.validations:
        for second in b.validations:
            if comparable(first, second, same_network=same_network):
                stages = tuple(_stages(first, second))
                yield FolderPair(first.folder, first.protocol.metric, first.pictures, stages)
                break


def _stages(a: Validation, b: Validation) -> Iterator[StagePair]:
    theirs = {stage.name: stage for stage in b.stages}
    losses = [{loss.stage: loss.mean_db for loss in one.totals} for one in (a, b)]
    for stage in a.stages:
        if stage.name not in theirs:
            continue
        other = theirs[stage.name]
        gains = _headlines(other, b) - _headlines(stage, a)
        interval = bootstrap_interval(gains.tolist())
        low, high = (None, None) if interval is None else interval
        worst = int(gains.argmin())
        yield StagePair(
            stage=stage.name,
            a=headline(stage, a),
            b=headline(other, b),
            loss_a=losses[0].get(stage.name),
            loss_b=losses[1].get(stage.name),
            gain=float(gains.mean()),
            low=low,
            high=high,
            worst_picture=stage.pictures[worst].name,
            worst=float(gains[worst]),
        )


def _headlines(stage: StageFigures, validation: Validation) -> NDArray[np.float64]:
    """The headline figure of each picture, dB."""
    metric = validation.protocol.metric
    return np.array([getattr(picture.quality, metric) for picture in stage.pictures])


def _layers(a: BudgetReport, b: BudgetReport) -> Iterator[LayerPair]:
    theirs = {row.name: row for row in b.layers}
    for row in a.layers:
        other = theirs.get(row.name)
        # By share: 2:4 of one pattern is 8:16 of another.
        if other and (row.kept * other.of, row.width) != (other.kept * row.of, other.width):
            yield LayerPair(row, other)


def _engines(a: BudgetReport | None, b: BudgetReport | None) -> Iterator[EnginePair]:
    first, second = (
        {engine.name: engine for engine in side.engines} if side else {} for side in (a, b)
    )
    for name in sorted({*first, *second}):
        yield EnginePair(name, first.get(name), second.get(name))


def _times(a: BudgetReport, b: BudgetReport) -> Iterator[TimePair]:
    theirs = {key: row for bench in b.benches for key, row in _rows(bench)}
    for bench in a.benches:
        for key, row in _rows(bench):
            if key in theirs:
                other = theirs[key]
                name, place, shape = key
                doubts = (("first", row.note), ("second", other.note))
                note = "; ".join(f"{side}: {text}" for side, text in doubts if text)
                yield TimePair(name, place, shape, row.timing.p50, other.timing.p50, note)


def _rows(bench: Bench) -> Iterator[tuple[tuple[str, str, tuple[int, ...]], BenchRow]]:
    """Each form, by its name, where it ran, and the input."""
    for row in bench.rows:
        yield (row.name, place_of(bench, row), bench.shape), row
