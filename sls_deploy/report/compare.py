"""Two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from sls_deploy.report.comparison import VERSION, BudgetPair, Comparison, SettingPair, StagePair
from sls_deploy.report.curves import Measured, curve_of, measured, value
from sls_deploy.report.pairs import comparable, pair_budgets
from sls_deploy.report.schema import BudgetReport, Curve, Point, RunReport
from sls_deploy.report.verdict import folder_name, with_interval
from sls_deploy.validate.figures import DENSE, SPARSE, Validation


def compare_reports(a: RunReport, b: RunReport) -> Comparison:
    """Put two runs beside each other.

    Pictures count as the same where their names, the way of measuring and, for the same network,
    the dense network's figure agree.

    Args:
        a: the run that is compared with.
        b: the other; gains are its.
    """
    same = a.network.sha256 == b.network.sha256
    budgets = tuple(_budgets(a, b, same_network=same))
    names = _names(a, b)
    return Comparison(
        version=VERSION,
        a=a.run,
        b=b.run,
        network_a=a.network,
        network_b=b.network,
        same_network=same,
        verdict=_verdict(budgets, names),
        not_compared=tuple(_not_compared(a, b, names, same_network=same)),
        settings=tuple(_settings(a.config, b.config)),
        budgets=budgets,
        curves=tuple(_curves(a, b, names, same_network=same)),
    )


def _names(a: RunReport, b: RunReport) -> tuple[str, str]:
    """What to call the runs: the last part of their paths, if those differ."""
    first, second = folder_name(a.run), folder_name(b.run)
    return (first, second) if first != second else (a.run, b.run)


def _budgets(a: RunReport, b: RunReport, *, same_network: bool) -> Iterator[BudgetPair]:
    first, second = ({one.budget: one for one in side.budgets} for side in (a, b))
    for budget in sorted({*first, *second}, reverse=True):
        yield pair_budgets(budget, first.get(budget), second.get(budget), same_network=same_network)


def _settings(a: str, b: str) -> Iterator[SettingPair]:
    first, second = _values(a), _values(b)
    for name in dict.fromkeys([*first, *second]):
        if (pair := (first.get(name, ""), second.get(name, "")))[0] != pair[1]:
            yield SettingPair(name, *pair)


def _values(config: str) -> dict[str, str]:
    """Settings by section and name, from TOML as `to_toml` writes it."""
    found, section = {}, ""
    for line in config.splitlines():
        name, equals, text = line.partition(" = ")
        if line.startswith("["):
            section = line.strip("[]")
        elif equals and not line.startswith("#"):
            found[f"{section}.{name}"] = text
    return found


def _curves(
    a: RunReport, b: RunReport, names: tuple[str, str], *, same_network: bool
) -> Iterator[Curve]:
    size = b.network.macs_per_pixel / a.network.macs_per_pixel
    first = measured(names[0], a.budgets, own=True)
    second = measured(names[1], b.budgets, own=False, size=size)
    for shown in {one.validation.folder: one.validation for one in first}.values():

        def here(one: Measured, shown: Validation = shown) -> bool:
            return comparable(shown, one.validation, same_network=same_network)

        theirs = [one for one in second if here(one)]
        if not theirs:
            continue
        ours = [one for one in first if one.validation.folder == shown.folder and here(one)]
        curve = curve_of(shown, [*ours, *theirs])
        if not same_network:
            dense = value(theirs[0].validation, DENSE)
            point = Point(f"dense, {names[1]}", f"dense, {names[1]}", False, size, dense)
            curve = Curve(curve.folder, curve.metric, (*curve.points, point))
        yield curve


def _not_compared(
    a: RunReport, b: RunReport, names: tuple[str, str], *, same_network: bool
) -> Iterator[str]:
    if not same_network:
        yield (
            "layers: the runs pruned different networks, and their costs are shares of different "
            "ones; that pictures of the same names are the same cannot be told"
        )
    for name, side, other in ((names[0], a, b), (names[1], b, a)):
        missing = [one.budget for one in side.budgets if one.budget not in _known(other)]
        if missing:
            yield f"budget {', '.join(f'{one:g}' for one in missing)}: only {name} has it"
    common = [one for one in a.budgets if one.budget in _known(b)]
    for ours in common:
        theirs = next(one for one in b.budgets if one.budget == ours.budget)
        yield from _folders(ours, theirs, names, same_network=same_network)


def _known(report: RunReport) -> set[float]:
    return {one.budget for one in report.budgets}


def _folders(
    a: BudgetReport, b: BudgetReport, names: tuple[str, str], *, same_network: bool
) -> Iterator[str]:
    """Folders that only one of two runs was measured on in a way that compares."""
    pairs = [
        (first, second)
        for first, second in product(a.validations, b.validations)
        if comparable(first, second, same_network=same_network)
    ]
    for name, side, number in ((names[0], a, 0), (names[1], b, 1)):
        paired = [pair[number] for pair in pairs]
        for one in side.validations:
            if one not in paired:
                why = "the other was not measured on the same pictures in the same way"
                if not one.totals:
                    why = "without truth there is no figure to compare"
                place = folder_name(one.folder)
                yield f"{place} at budget {side.budget:g} of {name}: {why}"


def _verdict(budgets: Sequence[BudgetPair], names: tuple[str, str]) -> str:
    shared = [one for one in budgets if one.folders]
    if not shared:
        return (
            f"{names[0]} and {names[1]} have no budget in common that both were measured at on the "
            "same pictures."
        )
    told = []
    for one in shared:
        folder = max(one.folders, key=lambda folder: folder.pictures)
        stage = next(stage for stage in folder.stages if stage.stage == SPARSE)
        place = f"{folder.pictures} pictures of {folder_name(folder.folder)}"
        told.append(f"at budget {one.budget:g} {_gain(stage, names)} on {place}{_cost(one)}")
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}."


def _gain(stage: StagePair, names: tuple[str, str]) -> str:
    if stage.gain == 0 and stage.worst == 0:
        return f"{names[1]} and {names[0]} do equally well"
    sign = 1 if stage.gain >= 0 else -1
    ends = [None if end is None else sign * end for end in (stage.low, stage.high)]
    low, high = ends if sign > 0 else reversed(ends)
    word = "better" if sign > 0 else "worse"
    told = f"{names[1]} does {with_interval(abs(stage.gain), low, high)} {word} than {names[0]}"
    if low is not None and low <= 0:
        return f"{told}, no more than chance,"
    return told


def _cost(pair: BudgetPair) -> str:
    """What each leaves of the multiply-accumulates."""
    shares = [
        (one.a.network, one.b.network)
        for one in pair.costs
        if one.model == "macs" and one.a and one.b
    ]
    if not shares:
        return ""
    a, b = (f"{share:.1%}".replace("%", " %") for share in shares[0])
    return f", with {b} of the multiply-accumulates against {a}"
