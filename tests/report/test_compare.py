from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sls_deploy.report.compare import compare_reports
from sls_deploy.report.schema import BudgetReport, RunReport
from sls_deploy.validate.figures import DENSE, SPARSE, StageFigures
from sls_deploy.validate.losses import bootstrap_interval


def figures(report: RunReport, stage: str) -> StageFigures:
    (validation,) = report.budgets[-1].validations
    return next(one for one in validation.stages if one.name == stage)


def per_picture(report: RunReport, stage: str) -> list[float]:
    return [one.quality.psnr_y for one in figures(report, stage).pictures if one.quality]


def half(report: RunReport) -> RunReport:
    """The last budget alone, as if it were 0.5."""
    return replace(report, budgets=(replace(report.budgets[-1], budget=0.5),))


def with_budget(report: RunReport, budget: BudgetReport) -> RunReport:
    return replace(report, run="runs/other", budgets=(budget,))


def test_run_beside_itself_differs_in_nothing(small: RunReport) -> None:
    found = compare_reports(small, small)
    assert found.same_network
    assert (found.settings, found.not_compared) == ((), ())
    for budget in found.budgets:
        assert budget.layers == ()
        for stage in budget.folders[0].stages:
            assert (stage.gain, stage.worst, stage.a) == (0, 0, stage.b)
    assert "do equally well" in found.verdict


def test_settings_that_differ_are_told_as_they_are_written(
    small: RunReport, filled: RunReport
) -> None:
    settings = {one.name: (one.a, one.b) for one in compare_reports(small, filled).settings}
    assert settings["search.method"] == ('"auto"', '"reconstruct"')
    assert settings["search.pattern"] == ('"2:4"', '"n:4"')
    assert "model.weights" not in settings


def test_setting_of_one_run_alone_is_told(small: RunReport) -> None:
    other = replace(small, config=small.config.replace("# static_shape =", "static_shape = [1]"))
    (setting,) = compare_reports(small, other).settings
    assert (setting.name, setting.a, setting.b) == ("export.static_shape", "", "[1]")


def test_gain_is_the_mean_over_the_same_pictures(small: RunReport, filled: RunReport) -> None:
    (budget,) = compare_reports(half(small), half(filled)).budgets
    (folder,) = budget.folders
    sparse = next(stage for stage in folder.stages if stage.stage == SPARSE)
    gains = np.subtract(per_picture(filled, SPARSE), per_picture(small, SPARSE))
    assert sparse.gain == pytest.approx(gains.mean())
    assert (sparse.low, sparse.high) == bootstrap_interval(gains.tolist())
    assert sparse.worst == pytest.approx(gains.min())
    pictures = figures(small, SPARSE).pictures
    assert sparse.worst_picture == pictures[int(gains.argmin())].name
    assert (folder.pictures, folder.metric) == (3, "psnr_y")


def test_forms_that_both_measured_are_compared(small: RunReport, filled: RunReport) -> None:
    (budget,) = compare_reports(half(small), half(filled)).budgets
    assert [stage.stage for stage in budget.folders[0].stages] == [DENSE, SPARSE, "ONNX fp32"]
    dense, sparse, _ = budget.folders[0].stages
    assert (dense.loss_a, dense.loss_b) == (None, None)
    assert sparse.loss_a == pytest.approx(dense.a - sparse.a)


def test_better_and_worse_are_told_of_the_second(small: RunReport, filled: RunReport) -> None:
    there = compare_reports(half(small), half(filled)).verdict
    back = compare_reports(half(filled), half(small)).verdict
    assert there.startswith("At budget 0.5 filled does ")
    assert " worse than small" in there
    assert " better than filled" in back


def test_other_layers_are_told(small: RunReport) -> None:
    whole, half_ = small.budgets
    found = compare_reports(
        with_budget(small, half_), with_budget(small, replace(whole, budget=0.5))
    )
    (budget,) = found.budgets
    assert budget.layers
    for pair in budget.layers:
        assert pair.a.name == pair.b.name
        assert (pair.a.kept, pair.a.width) != (pair.b.kept, pair.b.width)


def test_equal_shares_of_other_patterns_are_equal(small: RunReport) -> None:
    budget = small.budgets[1]
    rows = tuple(replace(row, kept=2 * row.kept, of=2 * row.of) for row in budget.layers)
    other = with_budget(small, replace(budget, layers=rows))
    assert compare_reports(with_budget(small, budget), other).budgets[0].layers == ()


def test_costs_engines_and_times_stand_side_by_side(small: RunReport) -> None:
    whole, half_ = compare_reports(small, small).budgets
    assert [cost.model for cost in whole.costs] == ["macs", "executable", "latency"]
    assert all(cost.a == cost.b for cost in whole.costs)
    assert [(one.name, one.a == one.b) for one in half_.engines] == [("TensorRT sm86-fp16", True)]
    bench = small.budgets[1].benches[0]
    assert [(one.name, one.a) for one in half_.times] == [
        (row.name, row.timing.p50) for row in bench.rows
    ]


def test_times_of_other_machines_are_not_compared(small: RunReport) -> None:
    budget = small.budgets[1]
    moved = tuple(replace(bench, processor="another") for bench in budget.benches)
    other = with_budget(small, replace(budget, benches=moved))
    assert compare_reports(with_budget(small, budget), other).budgets[0].times == ()


def test_budget_of_one_run_alone_is_named(small: RunReport, filled: RunReport) -> None:
    found = compare_reports(small, filled)
    assert [(one.budget, one.in_a, one.in_b) for one in found.budgets] == [
        (0.75, True, False),
        (0.5, True, False),
        (0.4, False, True),
    ]
    assert found.not_compared == (
        "budget 0.75, 0.5: only small has it",
        "budget 0.4: only filled has it",
    )
    assert "no budget in common" in found.verdict


def test_curves_of_both_stand_in_one(small: RunReport, filled: RunReport) -> None:
    (curve,) = compare_reports(small, filled).curves
    assert [(point.series, point.own) for point in curve.points] == [
        ("dense", True),
        ("small", True),
        ("small", True),
        ("filled", False),
    ]


def test_different_networks_are_compared_by_name_of_picture(small: RunReport) -> None:
    network = replace(
        small.network, sha256="0" * 64, macs_per_pixel=2 * small.network.macs_per_pixel
    )
    other = replace(small, run="runs/other", network=network)
    found = compare_reports(small, other)
    assert not found.same_network
    assert found.not_compared[0].startswith("layers: the runs pruned different networks")
    assert found.budgets[0].layers == ()
    assert found.budgets[0].folders
    (curve,) = found.curves
    costs = {point.label: point.network_cost for point in curve.points}
    assert costs["dense, other"] == 2
    assert costs["other, budget 0.5"] == pytest.approx(2 * costs["budget 0.5"])


def test_same_names_with_another_dense_figure_are_other_pictures(small: RunReport) -> None:
    budget = small.budgets[1]
    (validation,) = budget.validations
    dense, *others = validation.stages
    assert dense.quality is not None
    moved = replace(dense, quality=replace(dense.quality, psnr_y=dense.quality.psnr_y + 0.1))
    stages = replace(validation, stages=(moved, *others))
    other = with_budget(small, replace(budget, validations=(stages,)))
    found = compare_reports(with_budget(small, budget), other)
    assert (found.budgets[0].folders, found.curves) == ((), ())
    assert len(found.not_compared) == 2
    assert all("not measured on the same pictures" in reason for reason in found.not_compared)


def test_runs_that_were_only_searched_are_compared(learnt: RunReport, small: RunReport) -> None:
    (budget,) = compare_reports(learnt, half(small)).budgets
    assert budget.layers
    assert (budget.folders, budget.times) == ((), ())
    assert [(one.a, one.b is None) for one in budget.engines] == [(None, False)]
