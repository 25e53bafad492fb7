from __future__ import annotations

from dataclasses import replace

import pytest

from sls_deploy.report.schema import BudgetReport, RunReport
from sls_deploy.report.verdict import decibels, folder_name, listed, verdict, with_interval
from sls_deploy.validate.figures import Culprit, Gate, Rule
from tests.report.sample import sample_report

CULPRIT = Culprit("eye.png", "pruning", "body.1.body.0", "measured alone in the search")


@pytest.fixture(scope="module")
def small() -> RunReport:
    """Budgets 0.75 and 0.5 on one folder, all gates passed; there is no engine of the first."""
    report = sample_report((0.5, 0.25), layers=24)
    whole, half = (
        replace(one, budget=budget, validations=(replace(one.validations[0], folder="pictures"),))
        for one, budget in zip(report.budgets, (0.75, 0.5), strict=True)
    )
    return replace(report, budgets=(replace(whole, engines=(), level="none"), half))


def with_gate(
    budget: BudgetReport, rule: Rule, value: float, limit: float, culprit: Culprit | None
) -> BudgetReport:
    """A budget whose first gate is this one, failed."""
    gate = Gate("ONNX fp16", rule, "validate.x", limit, value, False, "eye.png", culprit)
    (validation,) = budget.validations
    gates = (gate, *validation.gates[1:])
    return replace(budget, validations=(replace(validation, gates=gates, passed=False),))


@pytest.mark.parametrize(
    ("rule", "value", "limit", "said"),
    [
        ("loss", 0.54, 0.3, "loses 0.54 dB on pictures as ONNX fp16, limit 0.3 dB"),
        (
            "worst picture",
            1.2,
            1.0,
            "loses 1.20 dB on eye.png of pictures as ONNX fp16, limit 1 dB for a picture",
        ),
        (
            "fidelity",
            42.06,
            50.0,
            "comes only within 42.1 dB of PyTorch on eye.png of pictures as ONNX fp16, limit 50 dB",
        ),
        (
            "fidelity to dense",
            42.06,
            50.0,
            "comes only within 42.1 dB of the dense network on eye.png of pictures as ONNX fp16, "
            "limit 50 dB",
        ),
    ],
)
def test_failed_gate_is_told(
    rule: Rule, value: float, limit: float, said: str, small: RunReport
) -> None:
    whole, half = small.budgets
    told = verdict([whole, with_gate(half, rule, value, limit, None)], [])
    assert told.startswith("Failed 1 of ")
    assert f"gates: budget 0.5 {said}. Budget 0.75 passes all gates." in told


def test_culprit_is_named(small: RunReport) -> None:
    told = verdict([with_gate(small.budgets[1], "loss", 0.54, 0.3, CULPRIT)], [])
    assert told.endswith(
        "limit 0.3 dB; it comes from pruning, worst picture eye.png, layer body.1.body.0."
    )


def test_culprit_without_a_layer_is_named(small: RunReport) -> None:
    told = verdict(
        [with_gate(small.budgets[1], "fidelity", 40, 50, replace(CULPRIT, layer=""))], []
    )
    assert told.endswith("limit 50 dB; it comes from pruning.")


def test_loss_is_told_before_other_gates(small: RunReport) -> None:
    failed = with_gate(small.budgets[1], "fidelity", 40, 50, None)
    (validation,) = failed.validations
    loss = next(gate for gate in validation.gates if gate.rule == "loss")
    gates = (validation.gates[0], replace(loss, passed=False, value=2.5, limit=0.3))
    failed = replace(failed, validations=(replace(validation, gates=gates),))
    assert verdict([failed], []).startswith("Failed 2 of 2 gates: budget 0.5 loses 2.50 dB")


def test_all_failed_budgets_are_named(small: RunReport) -> None:
    failed = [with_gate(budget, "loss", 0.5, 0.3, None) for budget in small.budgets]
    assert verdict(failed, []).endswith("limit 0.3 dB. Budget 0.5 fails, too.")


def test_without_truth_the_farthest_form_is_told(small: RunReport) -> None:
    budget = small.budgets[1]
    (validation,) = budget.validations
    told = verdict([replace(budget, validations=(replace(validation, totals=()),))], [])
    stages = [stage for stage in validation.stages if stage.to_reference]
    levels = {
        stage.to_reference.psnr_db: stage.name
        for stage in stages
        if stage.to_reference and stage.to_reference.psnr_db is not None
    }
    least = min(levels)
    assert f"comes within {least:.1f} dB of PyTorch on pictures as {levels[least]}" in told


def test_gain_is_told_as_one(small: RunReport) -> None:
    budget = small.budgets[1]
    (validation,) = budget.validations
    totals = tuple(replace(loss, mean_db=-0.25) for loss in validation.totals)
    told = verdict([replace(budget, validations=(replace(validation, totals=totals),))], [])
    assert "and gains 0.25 dB on pictures as sparse PyTorch, the form that does worst" in told


def test_levels_are_told_once_if_they_are_equal(small: RunReport) -> None:
    half = small.budgets[1]
    assert verdict([half, replace(half, budget=0.25)], []).endswith("; evidence L1.")
    assert verdict([replace(half, level="none")], []).endswith("; no evidence of sparsity.")
    assert verdict([small.budgets[0]], []).endswith("; no engine was built.")


def test_budget_that_was_not_validated_says_so(small: RunReport) -> None:
    whole, half = small.budgets
    assert "it keeps 22.0 % and was not validated;" in verdict(
        [whole, replace(half, validations=())], []
    )


def test_what_is_to_be_done_again_comes_last(small: RunReport) -> None:
    told = verdict(small.budgets, ["the export of budget 0.5", "b"])
    assert told.endswith(
        " To be done again, as it no longer holds: the export of budget 0.5 and b."
    )


@pytest.mark.parametrize(("value", "told"), [(0.0213, "0.021"), (0.54, "0.54"), (12.3456, "12.35")])
def test_small_differences_have_more_places(value: float, told: str) -> None:
    assert decibels(value) == told


def test_interval_has_the_places_of_its_mean() -> None:
    assert with_interval(0.02, -0.01, 0.2) == "0.020 dB (-0.010 to 0.200)"
    assert with_interval(0.2, None, None) == "0.20 dB"


def test_items_are_listed_as_in_a_sentence() -> None:
    assert [listed("a"), listed("ab"), listed("abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("folder", ["Set5", "/data/Set5", "data/Set5/", r"C:\data\Set5"])
def test_folder_is_called_by_its_last_part(folder: str) -> None:
    assert folder_name(folder) == "Set5"
