from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.report.schema import RunReport
from sls_deploy.report.searched import history
from sls_deploy.report.timed import measured_costs
from sls_deploy.validate.figures import DENSE, SPARSE


def test_history_of_learnt_ratios_tells_cost_and_kept_units(learnt: RunReport) -> None:
    told = learnt.budgets[0].history
    first, *_, last = told.steps
    assert (first.phase, first.cost, set(first.kept or ())) == ("search", 1.0, {told.units})
    assert first.kept is not None
    assert len(first.kept) == len(told.layers)
    assert (last.phase, last.loss) == ("fine-tuning", None)


def test_ratios_are_told_until_they_are_fixed() -> None:
    epochs = [
        {"step": 0, "cost": 1.0, "psnr": 30.0, "frozen": False, "kept": [8], "loss": 0.1},
        {"step": 5, "cost": 0.5, "psnr": 29.0, "frozen": True, "kept": [4], "loss": 0.2},
        {"step": 9, "cost": 0.5, "psnr": 29.5, "frozen": True, "kept": [4]},
    ]
    found = history({"pattern": "n:8"}, {"layers": ["a"], "epochs": epochs})
    assert found.units == 8
    assert [step.phase for step in found.steps] == ["search", "fine-tuning", "fine-tuning"]
    assert [step.cost for step in found.steps] == [1.0, 0.5, None]
    assert [step.kept for step in found.steps] == [(8,), (4,), None]


def test_history_of_fine_tuning_has_no_ratios(small: RunReport) -> None:
    steps = small.budgets[0].history.steps
    assert [step.step for step in steps] == sorted({step.step for step in steps})
    assert {(step.phase, step.cost, step.kept) for step in steps} == {("fine-tuning", None, None)}


def test_costs_are_those_of_the_search(small: RunReport, made: Path) -> None:
    path = made / "runs/small/search/b0.75/ratios.json"
    told = json.loads(path.read_text())["costs"]
    costs = small.budgets[0].costs
    assert [cost.model for cost in costs] == ["macs", "executable", "latency"]
    assert [(cost.prunable, cost.network) for cost in costs] == [
        (cost["cost"], cost["network_cost"]) for cost in told
    ]


def test_filling_up_costs_multiply_accumulates_alone(filled: RunReport, made: Path) -> None:
    ratios = json.loads((made / "runs/filled/search/b0.40/ratios.json").read_text())
    searched = {cost["model"]: cost for cost in ratios["costs"]}
    macs, *others = filled.budgets[0].costs
    assert macs.prunable == pytest.approx(ratios["refill"]["cost"])
    assert macs.network == pytest.approx(ratios["refill"]["network_cost"])
    assert macs.network > searched["macs"]["network_cost"]
    for cost in others:
        assert cost.network == searched[cost.model]["network_cost"]


def test_quality_of_what_was_filled_up_is_told(filled: RunReport, made: Path) -> None:
    ratios = json.loads((made / "runs/filled/search/b0.40/ratios.json").read_text())
    assert filled.budgets[0].held_out_sparse == ratios["refill"]["psnr"] > ratios["psnr"]


def test_one_competitor_is_chosen(small: RunReport) -> None:
    for budget in small.budgets:
        assert [one.source for one in budget.competitors if one.chosen] == ["allocated"]


def test_measured_cost_says_what_was_divided(small: RunReport) -> None:
    half = small.budgets[1]
    (bench,) = half.benches
    dense, sparse = (
        next(row for row in bench.rows if row.name == name) for name in (DENSE, SPARSE)
    )
    cost = half.costs[-1]
    assert (cost.model, cost.measured, cost.prunable) == ("measured", True, None)
    assert cost.network == sparse.timing.p50 / dense.timing.p50
    for part in (f"{dense.timing.p50:.2f} ms", bench.processor, "1 thread", "1x3x24x32"):
        assert part in cost.note


def test_doubts_of_times_stand_in_the_note(small: RunReport) -> None:
    (bench,) = small.budgets[1].benches
    rows = tuple(replace(row, note="unstable" * (row.name == SPARSE)) for row in bench.rows)
    (cost,) = measured_costs([replace(bench, rows=rows)])
    assert cost.note.endswith("; sparse PyTorch unstable")


def test_times_of_other_backends_are_no_cost(small: RunReport) -> None:
    (bench,) = small.budgets[1].benches
    rows = tuple(row for row in bench.rows if row.name != SPARSE)
    assert list(measured_costs([replace(bench, rows=rows)])) == []
