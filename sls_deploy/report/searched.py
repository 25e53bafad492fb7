"""How the search of a budget went, and what it left of the cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sls_deploy.report.layers import macs_left, refilled
from sls_deploy.report.schema import Competitor, Cost, History, LayerRow, Step
from sls_deploy.report.timed import measured_costs
from sls_deploy.runtime.bench_result import Bench
from sls_deploy.search.cost import MacsCost
from sls_deploy.sparsity.pattern import Pattern

_MACS = MacsCost.name


def costs(
    ratios: Mapping[str, Any],
    proof: Mapping[str, Any] | None,
    rows: Sequence[LayerRow],
    benches: Sequence[Bench],
) -> tuple[Cost, ...]:
    """What is left of the cost of the network that stands: of the exported one, if there is one.

    Filling layers up to N = M/2 raises multiply-accumulates alone: no other model knows of less
    than a half.

    Args:
        ratios: ratios.json of the search.
        proof: proof.json of the export; None where nothing was exported.
        rows: the layers, from `layer_rows`.
        benches: what was timed.
    """
    told = [
        Cost(cost["model"], cost["note"], cost["measured"], cost["cost"], cost["network_cost"])
        for cost in ratios["costs"]
    ]
    if refilled(proof):
        told = [_filled(cost, ratios, rows) if cost.model == _MACS else cost for cost in told]
    return (*told, *measured_costs(benches))


def history(ratios: Mapping[str, Any], told: Mapping[str, Any]) -> History:
    """The search, step by step.

    Args:
        ratios: ratios.json of the search.
        told: history.json of the search.
    """
    units = Pattern.parse(ratios["pattern"]).units
    return History(tuple(told["layers"]), units, tuple(_steps(told["epochs"])))


def competitors(ratios: Mapping[str, Any]) -> tuple[Competitor, ...]:
    """Ratios that competed for the budget."""
    return tuple(
        Competitor(entry["source"], entry["psnr"], entry["chosen"])
        for entry in ratios["candidates"]
    )


def _filled(cost: Cost, ratios: Mapping[str, Any], rows: Sequence[LayerRow]) -> Cost:
    """Multiply-accumulates with some layers filled up to M/2."""
    prunable = {layer["name"] for layer in ratios["layers"] if layer["prunable"]}
    own = [row for row in rows if row.name in prunable]
    left, dense = macs_left(own), sum(row.share for row in own)
    note = f"{cost.note}; with layers below N = M/2 filled up, as exported"
    return Cost(cost.model, note, cost.measured, left / dense if dense else 1.0, macs_left(rows))


def _steps(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """Epochs as steps; ratios that were fixed before an epoch began are told for the last time in
    the epoch that first saw them so."""
    before = ({}, *epochs)
    for previous, epoch in pairwise(before):
        learnt = "kept" in epoch and not previous.get("frozen", False)
        searching = "kept" in epoch and not epoch["frozen"]
        yield Step(
            step=epoch["step"],
            phase="search" if searching else "fine-tuning",
            psnr=epoch["psnr"],
            loss=epoch.get("loss"),
            cost=epoch["cost"] if learnt else None,
            kept=tuple(epoch["kept"]) if learnt else None,
        )
