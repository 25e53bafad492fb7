"""The result of a run in a sentence or two, as an engineer would say it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sls_deploy.report.layers import macs_left
from sls_deploy.report.schema import BudgetReport
from sls_deploy.validate.figures import Fidelity, Gate, Loss, Validation

_SMALL = 0.1
"""Losses below are told to a thousandth of a decibel, dB."""


def verdict(budgets: Sequence[BudgetReport], outdated: Sequence[str]) -> str:
    """Say what came out.

    Args:
        budgets: all budgets, by descending budget.
        outdated: what the report leaves out because it is no longer current.
    """
    gates = [gate for budget in budgets for one in budget.validations for gate in one.gates]
    failed = [budget for budget in budgets if not _passed(budget)]
    if not any(budget.validations for budget in budgets):
        told = f"Not validated yet: {_each(budgets, _unmeasured)}; {_evidence(budgets)}."
    elif failed:
        told = _failure(budgets, failed, gates)
    else:
        told = f"All {len(gates)} gates passed: {_each(budgets, _measured)}; {_evidence(budgets)}."
    again = f"To be done again, as it no longer holds: {listed(outdated)}." if outdated else ""
    return " ".join(filter(None, (told, again)))


def decibels(value: float, *, like: float | None = None) -> str:
    """A difference of PSNR, in as many places as it deserves, without its unit.

    Args:
        value: dB.
        like: the figure that it stands beside, where another tells the places.
    """
    places = 3 if abs(value if like is None else like) < _SMALL else 2
    return f"{value:.{places}f}"


def with_interval(mean: float, low: float | None, high: float | None) -> str:
    """A mean and its interval, such as '0.021 dB (0.012 to 0.030)'."""
    told = f"{decibels(mean)} dB"
    if low is None or high is None:
        return told
    return f"{told} ({decibels(low, like=mean)} to {decibels(high, like=mean)})"


def listed(items: Iterable[str]) -> str:
    """Items as a sentence names them: 'a, b and c'."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def folder_name(folder: str) -> str:
    """The last part of a folder's path."""
    return folder.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _passed(budget: BudgetReport) -> bool:
    return all(validation.passed for validation in budget.validations)


def _failure(
    budgets: Sequence[BudgetReport], failed: Sequence[BudgetReport], gates: Sequence[Gate]
) -> str:
    number = sum(not gate.passed for gate in gates)
    # The loss first: it is what the user set out to limit.
    wrong = sorted(
        (
            (validation, gate)
            for validation in failed[0].validations
            for gate in validation.gates
            if not gate.passed
        ),
        key=lambda pair: pair[1].rule != "loss",
    )
    validation, gate = wrong[0]
    told = (
        f"Failed {number} of {len(gates)} gates: budget {failed[0].budget:g} "
        f"{_breach(gate, folder_name(validation.folder))}{_blame(gate)}."
    )
    if len(budgets) == 1:
        return told
    sound = [f"{one.budget:g}" for one in budgets if one.validations and _passed(one)]
    others = [f"{one.budget:g}" for one in failed[1:]]
    parts = [
        f"budget{'s' * (len(some) > 1)} {listed(some)} {what}"
        for some, what in (
            (others, "fail, too" if len(others) > 1 else "fails, too"),
            (sound, "pass all gates" if len(sound) > 1 else "passes all gates"),
        )
        if some
    ]
    rest = "; ".join(parts)
    return f"{told} {rest[:1].upper()}{rest[1:]}." if rest else told


def _breach(gate: Gate, folder: str) -> str:
    """What a gate found, after the budget's name."""
    value = 0.0 if gate.value is None else gate.value
    limit = f"limit {gate.limit:g} dB"
    if gate.rule == "loss":
        return f"loses {decibels(value)} dB on {folder} as {gate.stage}, {limit}"
    place = f"{gate.picture} of {folder}"
    if gate.rule == "worst picture":
        return f"loses {decibels(value)} dB on {place} as {gate.stage}, {limit} for a picture"
    other = "the dense network" if gate.rule == "fidelity to dense" else "PyTorch"
    return f"comes only within {value:.1f} dB of {other} on {place} as {gate.stage}, {limit}"


def _blame(gate: Gate) -> str:
    """Where a breach comes from, with the comma or semicolon in front."""
    if gate.culprit is None:
        return ""
    source = f"it comes from {gate.culprit.cause}" if gate.culprit.cause else ""
    named = gate.culprit.picture if gate.rule == "loss" else ""
    picture = f"worst picture {named}" if named else ""
    layer = f"layer {gate.culprit.layer}" if gate.culprit.layer else ""
    told = ", ".join(filter(None, (source, picture, layer)))
    return f"; {told}" if told else ""


def _each(budgets: Sequence[BudgetReport], outcome: Callable[[BudgetReport], str]) -> str:
    """What every budget keeps, and what came out of it."""
    told = []
    for number, budget in enumerate(budgets):
        share = f"{macs_left(budget.layers):.1%}".replace("%", " %")
        what = (
            f"at {budget.budget:g} it keeps {share}"
            if number
            else f"at budget {budget.budget:g} the network keeps {share} of its "
            "multiply-accumulates"
        )
        told.append(f"{what} and {outcome(budget)}")
    return "; ".join(told)


def _measured(budget: BudgetReport) -> str:
    """What a budget that passed loses where it loses most."""
    losses = [(one, loss) for one in budget.validations for loss in one.totals]
    if losses:
        validation, loss = max(losses, key=lambda pair: pair[1].mean_db)
        return _loss(loss, validation)
    near = [(one, *found) for one in budget.validations if (found := _farthest(one))]
    if near:
        validation, stage, level = min(near, key=lambda entry: entry[2])
        place = folder_name(validation.folder)
        return f"comes within {level:.1f} dB of PyTorch on {place} as {stage}, its farthest form"
    return "equals PyTorch" if budget.validations else "was not validated"


def _farthest(validation: Validation) -> tuple[str, float] | None:
    """The stage that lies farthest from PyTorch, and its PSNR; None if all are equal."""
    levels = [
        (stage.name, near.psnr_db)
        for stage in validation.stages
        if isinstance(near := stage.to_reference, Fidelity) and near.psnr_db is not None
    ]
    return min(levels, key=lambda entry: entry[1], default=None)


def _loss(loss: Loss, validation: Validation) -> str:
    place = f"on {folder_name(validation.folder)} as {loss.stage}"
    if round(loss.mean_db, 3) < 0:
        return f"gains {decibels(-loss.mean_db)} dB {place}, the form that does worst"
    amount = with_interval(loss.mean_db, loss.low_db, loss.high_db)
    return f"loses at most {amount} {place}"


def _unmeasured(budget: BudgetReport) -> str:
    dense, sparse = budget.held_out_dense, budget.held_out_sparse
    change = f"{'loses' if sparse <= dense else 'gains'} {decibels(abs(dense - sparse))} dB"
    return f"{change} on held-out crops ({dense:.2f} to {sparse:.2f} dB)"


def _evidence(budgets: Sequence[BudgetReport]) -> str:
    """How far sparsity is proven."""
    levels = [budget.level if budget.engines else "" for budget in budgets]
    if not any(levels):
        return "no engine was built"
    words = {"": "no engine", "none": "no evidence of sparsity"}
    if len(set(levels)) == 1:
        return words.get(levels[0], f"evidence {levels[0]}")
    told = (
        f"{words.get(level, level)} at {budget.budget:g}"
        for budget, level in zip(budgets, levels, strict=True)
    )
    return f"evidence: {', '.join(told)}"
