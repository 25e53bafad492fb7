"""The chart of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sls_deploy.report.charts import FONT_SIZE, Chart
from sls_deploy.report.page_numbers import change, fixed, share
from sls_deploy.report.schema import Curve, Point
from sls_deploy.report.verdict import folder_name

_SHAPES = ("square", "triangle-up", "diamond", "cross", "triangle-down")
_COLOURS = ("var(--tone-2)", "var(--tone-3)", "var(--tone-4)", "var(--tone-5)")
_WIDTH, _HEIGHT = 960, 320
_AROUND = 0.12
"""Room above and below the points, as a share of their span."""


def curve_chart(curve: Curve, own: str) -> Chart:
    """Draw every budget's quality at its cost, a line for each run.

    Args:
        curve: at least one point.
        own: name of this run, for the legend.
    """
    dense = next((point.value for point in curve.points if point.series == "dense"), None)
    series = _series(curve, own)
    values = [_value(point, own, dense) for point in curve.points if point.series != "dense"]
    low, high = _span(curve)
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": "network cost left, % of multiply-accumulates",
        "scale": {"domain": [0, 105], "nice": False},
        "axis": {"tickCount": 10, "grid": True},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "title": f"{curve.metric}, dB",
        "scale": {"domain": [low, high], "nice": False, "zero": False},
        "axis": {"format": ".2f", "tickCount": 7},
    }
    told = {"field": "told", "type": "nominal"}
    marks: list[dict[str, Any]] = [_dense(dense)] if dense is not None else []
    marks += [
        {
            "mark": {"type": "line", "interpolate": "linear"},
            "encoding": {"x": x, "y": y, "color": _colours(series), "strokeWidth": _heavier(3, 1)},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": _colours(series),
                "shape": _shapes(series),
                "size": _heavier(110, 55),
                "description": told,
            },
        },
        {
            "transform": [{"filter": "datum.own"}],
            "mark": {"type": "text", "dy": -10, "dx": -8, "align": "right", "fontWeight": 600},
            "encoding": {"x": x, "y": y, "text": {"field": "label", "type": "nominal"}},
        },
    ]
    spec = {"width": _WIDTH, "height": _HEIGHT, "data": {"values": values}, "layer": marks}
    return Chart(
        spec,
        f"{curve.metric} against cost on {folder_name(curve.folder)}",
        _told(curve, dense),
        ("What", "Run", "Network cost left", f"{curve.metric}, dB", "To dense, dB"),
        tuple(_row(point, dense) for point in curve.points),
    )


def _series(curve: Curve, own: str) -> Mapping[str, tuple[str, str]]:
    """Colour and shape of every run, this one first."""
    others = [point.series for point in curve.points if not point.own and point.series != "dense"]
    looks: dict[str, tuple[str, str]] = {}
    if any(point.own and point.series != "dense" for point in curve.points):
        looks[own] = ("var(--accent)", "circle")
    for place, name in enumerate(dict.fromkeys(others)):
        looks[name] = (_COLOURS[place % len(_COLOURS)], _SHAPES[place % len(_SHAPES)])
    return looks


def _colours(series: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    scale = {"domain": list(series), "range": [colour for colour, _ in series.values()]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": _legend()}


def _shapes(series: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    scale = {"domain": list(series), "range": [shape for _, shape in series.values()]}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": _legend()}


def _legend() -> dict[str, Any]:
    return {"orient": "top", "title": None, "symbolOpacity": 1, "columns": 3, "offset": 12}


def _heavier(own: float, other: float) -> dict[str, Any]:
    return {"condition": {"test": "datum.own", "value": own}, "value": other}


def _dense(dense: float) -> dict[str, Any]:
    y = {"field": "value", "type": "quantitative"}
    right = {"value": _WIDTH}
    return {
        "data": {"values": [{"value": dense, "text": f"dense {fixed(dense)}"}]},
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [4, 4], "color": "var(--ink-2)"}}
            | {"encoding": {"y": y}},
            {
                "mark": {
                    "type": "text",
                    "align": "right",
                    "dy": -9,
                    "fontSize": FONT_SIZE,
                    "color": "var(--ink-2)",
                },
                "encoding": {"y": y, "x": right, "text": {"field": "text", "type": "nominal"}},
            },
        ],
    }


def _value(point: Point, own: str, dense: float | None) -> dict[str, Any]:
    return {
        "label": point.label,
        "series": own if point.own else point.series,
        "own": point.own,
        "cost": 100 * point.network_cost,
        "value": point.value,
        "told": f"{point.label}: {fixed(point.value)} dB at {share(point.network_cost)} of the cost"
        + ("" if dense is None else f", {change(point.value - dense)} dB to dense"),
    }


def _span(curve: Curve) -> tuple[float, float]:
    values = [point.value for point in curve.points]
    room = _AROUND * max(max(values) - min(values), 0.1)
    return min(values) - room, max(values) + room


def _row(point: Point, dense: float | None) -> tuple[str, ...]:
    to_dense = None if dense is None else point.value - dense
    cost = share(point.network_cost)
    return (point.label, point.series, cost, fixed(point.value), change(to_dense))


def _told(curve: Curve, dense: float | None) -> str:
    own = [point for point in curve.points if point.own and point.series != "dense"]
    parts = [
        f"{point.label} reaches {fixed(point.value)} dB at {share(point.network_cost)}"
        for point in own
    ]
    others = len({point.series for point in curve.points if not point.own} - {"dense"})
    parts += [f"the dense network {fixed(dense)} dB"] if dense is not None else []
    parts += [f"{others} other runs are shown beside it"] if others else []
    told = f"{'; '.join(parts)}."
    return f"{told[0].upper()}{told[1:]}"
