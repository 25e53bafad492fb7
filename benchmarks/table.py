"""The accuracy table in markdown, from the cells that are done."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import METHODS

SETS = ("Set5", "Set14", "B100")
"""Benchmarks, by the name of their folder."""
BUDGETS = (0.5, 0.25, 0.125)
"""Budgets of the methods that have no only one."""

_COUNTS = ("seeds", "steps", "minutes", "ONNX Runtime")
_HEAD = ("", "method", "budget", "cost", "executed", *SETS, "B100 refilled", *_COUNTS)
Record = dict[str, Any]


def read_records(out: Path) -> list[Record]:
    """The cells that are done, in the order of their names."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*-s*.json"))]
    return [record for record in records if "method" in record]


def make_table(records: Sequence[Record]) -> str:
    """One table a network; '-' stands for what is not there yet."""
    parts = []
    for network in dict.fromkeys(record["network"] for record in records):
        own = [record for record in records if record["network"] == network]
        lines = [f"### {network}", "", _line(_HEAD), _line(["---"] * len(_HEAD))]
        dense = next((record for record in own if record["method"] == "dense"), None)
        notes = []
        for method, budget in _rows(own):
            found = [item for item in own if (item["method"], item["budget"]) == (method, budget)]
            failed = [item["failed"] for item in found if "failed" in item]
            notes += [f"- {method} at {budget:g}: {reason}" for reason in dict.fromkeys(failed)]
            done = [item for item in found if "failed" not in item]
            lines.append(_line(_row(method, budget, done, dense)))
        parts.append("\n".join([*lines, *([""] if notes else []), *notes]))
    return "\n\n".join(parts) or "no cell is done yet"


def _rows(records: Sequence[Record]) -> list[tuple[str, float]]:
    """Methods and budgets: those of the whole table, and what was run beside."""
    whole = {
        (name, budget)
        for name, method in METHODS.items()
        for budget in (BUDGETS if method.budget is None else (method.budget,))
    }
    beside = {(record["method"], record["budget"]) for record in records}
    return sorted(whole | beside, key=lambda row: (row[0] != "dense", row[0], -row[1]))


def _row(method: str, budget: float, done: Sequence[Record], dense: Record | None) -> list[str]:
    label = "" if method == "dense" else f"({method})"
    row = [label, METHODS[method].label, f"{budget:g}"]
    if not done:
        return row + ["-"] * (len(_HEAD) - len(row))
    row += [f"{_mean(done, key):.3f}" for key in ("cost", "executable")]
    columns = [[record["psnr"][name] for record in done] for name in SETS]
    refilled = [record["refilled"]["B100"] for record in done if record.get("refilled")]
    for name, values in zip((*SETS, "B100"), (*columns, refilled), strict=True):
        row.append(_quality(values, dense and dense["psnr"][name], whole=method == "dense"))
    row += [str(len(done)), f"{_mean(done, 'steps'):.0f}", f"{_mean(done, 'minutes'):.1f}"]
    times = [record["milliseconds"] for record in done if record["milliseconds"]]
    ratio = statistics.fmean([pruned / whole for whole, pruned in times]) if times else None
    return [*row, "-" if ratio is None else f"{ratio:.2f}"]


def _quality(values: Sequence[float], dense: float | None, *, whole: bool) -> str:
    """Mean PSNR, with the difference to the dense network and half the range over seeds."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if whole:
        return f"{mean:.2f}"
    lost = "-" if dense is None else f"{mean - dense:+.3f}"
    spread = f" ±{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{mean:.2f} ({lost}{spread})"


def _mean(records: Sequence[Record], key: str) -> float:
    return statistics.fmean(record[key] for record in records)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
