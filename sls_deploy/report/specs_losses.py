"""The chart of where the loss comes from: a waterfall along the steps of the flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sls_deploy.report.charts import Chart
from sls_deploy.report.page_numbers import change, fixed, interval
from sls_deploy.report.verdict import folder_name
from sls_deploy.validate.figures import Loss, Validation

_WIDTH, _STEP = 760, 30
_COLOURS = {
    "loses": "var(--accent)",
    "gains": "var(--good)",
    "too much": "var(--bad)",
}
_LEAST = 0.01
"""Least span of the axis, dB: smaller losses are not blown up to fill it."""


def losses_chart(validation: Validation, limit: float | None) -> Chart:
    """Draw what each step lost: a bar from where its predecessor ended to where it ends.

    Args:
        validation: measured against the truth.
        limit: most that may be lost, dB; None where it is not known.
    """
    values = list(_values(validation, limit))
    names = [value["stage"] for value in values]
    reach = [value[key] for value in values for key in ("from", "to", "low", "high")]
    low, high = min(0.0, *reach), max(_LEAST, *reach)
    room = 0.14 * (high - low)
    shown = limit if limit is not None and limit <= 1.6 * high else None
    domain = [low - (room if low < 0 else 0), max(high, shown or 0) + room]
    x: dict[str, Any] = {
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False},
        "axis": {"title": "lost to the dense network, dB", "tickCount": 6, "format": ".3~f"},
    }
    y = {
        "field": "stage",
        "type": "nominal",
        "sort": names,
        "title": None,
        "axis": {"labelLimit": 190, "ticks": False, "domain": False, "labelFontSize": 12},
    }
    told = {"field": "told", "type": "nominal"}
    bar = {
        "mark": {"type": "bar", "height": 14},
        "encoding": {
            "y": y,
            "x": {**x, "field": "from"},
            "x2": {"field": "to"},
            "color": {
                "field": "does",
                "type": "nominal",
                "scale": {"domain": list(_COLOURS), "range": list(_COLOURS.values())},
                "legend": None,
            },
            "description": told,
        },
    }
    end = {
        "mark": {"type": "tick", "thickness": 2, "size": 20, "color": "var(--ink)"},
        "encoding": {"y": y, "x": {**x, "field": "to"}, "description": told},
    }
    spread = {
        "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1},
        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
    }
    words = {
        "mark": {"type": "text", "align": "left", "dx": 9},
        "encoding": {"y": y, "x": {**x, "field": "high"}, "text": {"field": "step"}},
    }
    zero = _rule(0.0, "var(--line-2)", [1, 0])
    marks = [zero, bar, spread, end, words]
    if shown is not None:
        marks += [_rule(shown, "var(--bad)", [4, 4]), _limit(shown)]
    spec = {
        "width": _WIDTH,
        "height": {"step": _STEP},
        "data": {"values": values},
        "layer": marks,
    }
    return Chart(
        spec,
        f"Where the loss comes from, on {folder_name(validation.folder)}",
        _told(validation),
        ("Stage", "Made from", "Cause", "Lost in this step, dB", "Lost to dense, dB", "95 %, dB"),
        tuple(_rows(validation)),
    )


def _rule(value: float, colour: str, dash: list[int]) -> dict[str, Any]:
    return {
        "data": {"values": [{"at": value}]},
        "mark": {"type": "rule", "color": colour, "strokeDash": dash},
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }


def _limit(value: float) -> dict[str, Any]:
    return {
        "data": {"values": [{"at": value, "text": f"limit {value:g} dB"}]},
        "mark": {"type": "text", "dy": -8, "color": "var(--bad)"},
        "encoding": {
            "x": {"field": "at", "type": "quantitative"},
            "y": {"value": 0},
            "text": {"field": "text", "type": "nominal"},
        },
    }


def _pairs(validation: Validation) -> Iterator[tuple[Loss, Loss]]:
    """The step of every stage and its total."""
    totals = {loss.stage: loss for loss in validation.totals}
    return ((step, totals[step.stage]) for step in validation.losses if step.stage in totals)


def _values(validation: Validation, limit: float | None) -> Iterator[dict[str, Any]]:
    for step, total in _pairs(validation):
        alone = total.low_db is None or total.high_db is None
        yield {
            "stage": step.stage,
            "from": total.mean_db - step.mean_db,
            "to": total.mean_db,
            "low": total.mean_db if alone else total.low_db,
            "high": total.mean_db if alone else total.high_db,
            "does": _does(step, total, limit),
            "step": f"{change(step.mean_db)} {step.cause}",
            "told": f"{step.stage}: {change(step.mean_db)} dB by {step.cause}, "
            f"{fixed(total.mean_db)} dB in all ({interval(total.low_db, total.high_db)})",
        }


def _does(step: Loss, total: Loss, limit: float | None) -> str:
    if limit is not None and total.mean_db > limit:
        return "too much"
    return "gains" if step.mean_db < 0 else "loses"


def _rows(validation: Validation) -> Iterator[tuple[str, ...]]:
    for step, total in _pairs(validation):
        lost, whole = change(step.mean_db), change(total.mean_db)
        spread = interval(total.low_db, total.high_db)
        yield (step.stage, step.against, step.cause, lost, whole, spread)


def _told(validation: Validation) -> str:
    most = max(validation.losses, key=lambda loss: loss.mean_db)
    ends = [f"{loss.stage} {change(loss.mean_db)} dB" for loss in validation.totals]
    return (
        f"Most is lost by {most.cause}: {fixed(most.mean_db)} dB in {most.stage}. "
        f"In all: {', '.join(ends)}."
    )
