from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.report.layers import layer_rows, macs_left
from sls_deploy.report.schema import RunReport


def ratios_of(made: Path, run: str, budget: str) -> dict[str, Any]:
    path = made / "runs" / run / "search" / budget / "ratios.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_shares_make_up_the_network(small: RunReport) -> None:
    assert sum(row.share for row in small.budgets[0].layers) == pytest.approx(1)


@pytest.mark.parametrize("run", ["small", "filled", "learnt"])
def test_shares_that_are_left_make_up_the_cost(run: str, request: pytest.FixtureRequest) -> None:
    report: RunReport = request.getfixturevalue(run)
    for budget in report.budgets:
        macs = next(cost for cost in budget.costs if cost.model == "macs")
        assert macs_left(budget.layers) == pytest.approx(macs.network)


@pytest.mark.parametrize(("run", "budget"), [("small", "b0.75"), ("filled", "b0.40")])
def test_sensitivity_is_that_of_what_a_layer_keeps(
    run: str, budget: str, made: Path, request: pytest.FixtureRequest
) -> None:
    report: RunReport = request.getfixturevalue(run)
    told = {layer["name"]: layer for layer in ratios_of(made, run, budget)["layers"]}
    rows = [row for row in report.budgets[0].layers if told[row.name]["sensitivity"]]
    assert len({row.kept for row in rows}) > 1
    for row in rows:
        # A dense layer is told by what 2:4 would lose.
        assert row.sensitivity == dict(told[row.name]["sensitivity"])[row.kept % 4 or 2]


def test_layer_that_cannot_be_pruned_has_no_sensitivity(small: RunReport) -> None:
    first = next(row for row in small.budgets[0].layers if row.name == "head.0")
    assert (first.sensitivity, first.reason) == (None, "the first convolution stays dense")


def test_narrowing_leaves_less_of_a_layer(made: Path) -> None:
    ratios = ratios_of(made, "small", "b0.50")
    layer = next(layer for layer in ratios["layers"] if layer["kept"] < layer["of"])
    layer["width"] = [layer["shape"][0] // 2, layer["shape"][1] // 4]
    row = next(row for row in layer_rows(ratios, None) if row.name == layer["name"])
    assert (row.width, row.left) == (tuple(layer["width"]), 1 / 16)


def test_eligibility_is_that_of_the_exported_file(small: RunReport, made: Path) -> None:
    proof = json.loads((made / "runs/small/export/b0.75/proof.json").read_text())
    proven = {layer["name"]: layer for layer in proof["files"]["fp16"]["layers"]}
    rows = small.budgets[0].layers
    assert {row.eligible for row in rows} == {True, False}
    for row in rows:
        assert row.eligible == proven[row.name]["eligible"]


def test_layer_that_was_left_dense_says_why(small: RunReport) -> None:
    for row in small.budgets[0].layers:
        assert bool(row.reason) == (row.kept == row.of)
    assert "others lose less" in {row.reason for row in small.budgets[0].layers}


def test_pruned_layer_that_is_not_eligible_says_why(made: Path) -> None:
    ratios = ratios_of(made, "small", "b0.50")
    proof = json.loads((made / "runs/small/export/b0.50/proof.json").read_text())
    pruned = next(layer for layer in proof["files"]["fp16"]["layers"] if layer["pruned"])
    pruned |= {"eligible": False, "reason": "it has 2 convolution groups"}
    row = next(row for row in layer_rows(ratios, proof) if row.name == pruned["name"])
    assert (row.eligible, row.reason) == (False, "it has 2 convolution groups")


def test_layers_that_were_filled_up_keep_half(filled: RunReport, made: Path) -> None:
    refill = ratios_of(made, "filled", "b0.40")["refill"]["layers"]
    rows = {row.name: row for row in filled.budgets[0].layers}
    assert refill
    assert {(rows[name].kept, rows[name].of) for name in refill} == {(2, 4)}
