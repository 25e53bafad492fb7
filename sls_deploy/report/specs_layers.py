"""The chart of the layers: what is left of each, its share of the cost, what it costs to prune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sls_deploy.report.charts import FONT_SIZE, Chart
from sls_deploy.report.page_numbers import pattern, share, short
from sls_deploy.report.schema import BudgetReport, LayerRow

_STEP = 17
"""Height of a layer, pixels: its name stays readable however many there are."""
_LEFT, _SHARE, _SENSITIVITY, _WHY = 190, 120, 150, 300
_NAMES = 190
_LONGEST = 58
"""Characters of a reason that fit; the table has it whole."""


def layers_chart(budget: BudgetReport) -> Chart:
    """Draw every layer as a row, in the order of the network.

    Args:
        budget: at least one layer.
    """
    rows = budget.layers
    names = [row.name for row in rows]
    spec = {
        "data": {"values": [_value(row) for row in rows]},
        "hconcat": [_left(names), _share(names, rows), _sensitivity(names, rows), _why(names)],
        "spacing": 14,
    }
    pruned = [row for row in rows if row.left < 1]
    eligible = sum(row.eligible is True for row in rows)
    told = f"{len(pruned)} of {len(rows)} layers are pruned; {eligible} may run sparse."
    return Chart(
        spec, f"Layers at budget {budget.budget:g}", told, (), ()
    )  # the table of the layers stands beside it


def _value(row: LayerRow) -> dict[str, Any]:
    kept = pattern(row.kept, row.of)
    narrowed = row.width[:2] != row.shape[:2]
    width = f", {row.width[0]}←{row.width[1]}" if narrowed else ""
    state = {True: "sparse", False: "dense", None: "unknown"}[row.eligible]
    words = row.reason or ("may run sparse" if row.eligible else "")
    cut = words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1].rstrip()}…"
    return {
        "name": row.name,
        "left": 100 * row.left,
        "share": 100 * row.share,
        "sensitivity": row.sensitivity or None,
        "form": f"{kept}{width}",
        "pruned": row.left < 1,
        "state": state,
        "why": cut,
        "told": f"{row.name}: {kept}{width}, {share(row.left)} of its work left, "
        f"{share(row.share)} of the network's, sensitivity {short(row.sensitivity)}"
        + (f"; {words}" if words else ""),
    }


def _y(names: Sequence[str], *, shown: bool) -> dict[str, Any]:
    axis = {"labelLimit": _NAMES, "ticks": False, "domain": False, "grid": False}
    return {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": list(names)},
        "title": None,
        "axis": axis if shown else None,
    }


def _panel(width: int, marks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"width": width, "height": {"step": _STEP}, "layer": marks}


def _x(field: str, title: str, top: float, *, kind: str = "linear") -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"type": kind, "domain": [0, top], "nice": False},
        "axis": {"orient": "top", "title": title, "tickCount": 4, "grid": True},
    }


def _told() -> dict[str, Any]:
    return {"field": "told", "type": "nominal"}


def _colour() -> dict[str, Any]:
    return {
        "condition": {"test": "datum.pruned", "value": "var(--accent)"},
        "value": "var(--quiet-mark)",
    }


def _left(names: Sequence[str]) -> dict[str, Any]:
    x, y = _x("left", "left of the layer, %", 100), _y(names, shown=True)
    bar = {"type": "bar", "height": 9}
    # Where a whole bar leaves no room, its words stand inside the panel's right margin.
    text = {"type": "text", "align": "left", "dx": 5, "fontSize": FONT_SIZE - 1}
    inside = {"x": x, "y": y, "text": {"field": "form", "type": "nominal"}}
    return _panel(
        _LEFT,
        [
            {"mark": bar, "encoding": {"x": x, "y": y, "color": _colour(), "description": _told()}},
            {"mark": text, "encoding": inside},
        ],
    )


def _share(names: Sequence[str], rows: Sequence[LayerRow]) -> dict[str, Any]:
    top = max(1e-6, *(100 * row.share for row in rows)) * 1.05
    x, y = _x("share", "share of the cost, %", top), _y(names, shown=False)
    bar = {"type": "bar", "height": 9, "color": "var(--quiet-mark)"}
    return _panel(_SHARE, [{"mark": bar, "encoding": {"x": x, "y": y, "description": _told()}}])


def _sensitivity(names: Sequence[str], rows: Sequence[LayerRow]) -> dict[str, Any]:
    measured = [row.sensitivity for row in rows if row.sensitivity]
    y = _y(names, shown=False)
    x: dict[str, Any] = {
        "field": "sensitivity",
        "type": "quantitative",
        "scale": {
            "type": "log",
            "domain": [min(measured) / 1.5, max(measured) * 1.5] if measured else [1e-6, 1e-4],
            "nice": False,
        },
        "axis": {
            "orient": "top",
            "title": "sensitivity, squared error",
            "values": [10.0**power for power in range(-12, 1)],
            "format": ".0e",
            "grid": True,
        },
    }
    dot = {"type": "point", "filled": True, "size": 42, "opacity": 1}
    encoding = {"x": x, "y": y, "color": _colour(), "description": _told()}
    marks = {"transform": [{"filter": "isValid(datum.sensitivity)"}], "mark": dot}
    return _panel(_SENSITIVITY, [{**marks, "encoding": encoding}])


def _why(names: Sequence[str]) -> dict[str, Any]:
    y = _y(names, shown=False)
    sign = {
        "mark": {"type": "point", "size": 46, "opacity": 1, "strokeWidth": 1.5},
        "encoding": {
            "x": {"value": 6},
            "y": y,
            "shape": {
                "field": "state",
                "type": "nominal",
                "scale": {
                    "domain": ["sparse", "dense", "unknown"],
                    "range": ["circle", "cross", "square"],
                },
                "legend": None,
            },
            "stroke": {
                "condition": {"test": "datum.state === 'sparse'", "value": "var(--good)"},
                "value": "var(--ink-3)",
            },
            "fill": {
                "condition": {"test": "datum.state === 'sparse'", "value": "var(--good)"},
                "value": "transparent",
            },
            "description": _told(),
        },
    }
    words = {
        "mark": {"type": "text", "align": "left", "color": "var(--ink-2)", "fontSize": 10.5},
        "encoding": {"x": {"value": 18}, "y": y, "text": {"field": "why", "type": "nominal"}},
    }
    head = {
        "data": {"values": [{}]},
        "mark": {
            "type": "text",
            "align": "left",
            "text": "sparse tensor cores",
            "color": "var(--ink-2)",
        },
        "encoding": {"x": {"value": 0}, "y": {"value": -34}},
    }
    return _panel(_WHY, [sign, words, head])
