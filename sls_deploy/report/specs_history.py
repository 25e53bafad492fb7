"""The chart of a search: quality, loss, cost and what each layer keeps, over its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sls_deploy.report.charts import Chart
from sls_deploy.report.page_numbers import NOTHING, fixed, share
from sls_deploy.report.schema import BudgetReport, History

_WIDTH, _HEIGHT, _STEP = 920, 110, 13
_SHADES = tuple(f"var(--heat-{place})" for place in range(8))
_FIGURES = (
    ("psnr", "held-out PSNR, dB", ".2f"),
    ("loss", "training loss", ".3f"),
    ("cost", "cost left, %", ".0f"),
)


def history_chart(budget: BudgetReport) -> Chart:
    """Draw what was logged: a panel for each figure, and a row of the map for each layer.

    Args:
        budget: its history has at least one step.
    """
    history = budget.history
    last = history.steps[-1].step
    values = [
        {
            "step": step.step,
            "phase": step.phase,
            "psnr": step.psnr,
            "loss": step.loss,
            "cost": None if step.cost is None else 100 * step.cost,
        }
        for step in history.steps
    ]
    shown = [
        (field, title, form)
        for field, title, form in _FIGURES
        if any(value[field] is not None for value in values)
    ]
    kept = any(step.kept for step in history.steps)
    panels = [
        _panel(values, *figure, history, last=figure == shown[-1] and not kept) for figure in shown
    ]
    if kept:
        panels.append(_map(history))
    spec = {
        "vconcat": panels,
        "spacing": 20,
        "resolve": {"scale": {"color": "independent"}},
    }
    mapped = f", and how many of {history.units} units every layer keeps" if kept else ""
    return Chart(
        spec,
        f"Search at budget {budget.budget:g}",
        f"Logged over {last} steps: {', '.join(title for _, title, _ in shown)}{mapped}. "
        f"{_ends(history)}",
        ("Step", "Phase", "PSNR, dB", "Loss", "Cost left"),
        tuple(
            (
                str(step.step),
                step.phase,
                fixed(step.psnr),
                fixed(step.loss, 4),
                share(step.cost),
            )
            for step in history.steps
        ),
    )


def kept_rows(history: History) -> list[tuple[str, str, str]]:
    """Units that each layer kept at first and at last, for the table beside the map."""
    known = [step.kept for step in history.steps if step.kept]
    if not known:
        return []
    ends = zip(history.layers, known[0], known[-1], strict=True)
    return [(name, str(first), str(last)) for name, first, last in ends]


def _x(history: History, *, axis: bool) -> dict[str, Any]:
    first, last = history.steps[0].step, history.steps[-1].step
    return {
        "field": "step",
        "type": "quantitative",
        "title": "step" if axis else None,
        "scale": {"domain": [first, max(last, first + 1)], "nice": False},
        "axis": {"grid": False, "format": "d", "tickCount": 10, "labels": axis},
    }


def _panel(
    values: Sequence[dict[str, Any]],
    field: str,
    title: str,
    form: str,
    history: History,
    *,
    last: bool,
) -> dict[str, Any]:
    shown = [value for value in values if value[field] is not None]
    y = {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": field == "cost"},
        "axis": {"format": form, "tickCount": 4, "titleX": -52},
    }
    told = [
        {**value, "told": f"step {value['step']}, {value['phase']}: {value[field]:{form}} {title}"}
        for value in shown
    ]
    x = _x(history, axis=last)
    line = {"mark": {"type": "line", "color": "var(--accent)"}, "encoding": {"x": x, "y": y}}
    dots = {
        "mark": {"type": "point", "filled": True, "size": 16, "opacity": 1},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"value": "var(--accent)"},
            "description": {"field": "told", "type": "nominal"},
        },
    }
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "data": {"values": told},
        "layer": [*_phases(history, last=last), line, dots],
    }


def _phases(history: History, *, last: bool) -> Iterator[dict[str, Any]]:
    """A rule and a word where a phase begins."""
    starts: dict[str, int] = {}
    for step in history.steps:
        starts.setdefault(step.phase, step.step)
    if len(starts) < 2:
        return
    data = [{"step": step, "phase": phase} for phase, step in starts.items()]
    x = _x(history, axis=last)
    yield {
        "data": {"values": data[1:]},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": "var(--ink-3)"},
        "encoding": {"x": x},
    }
    yield {
        "data": {"values": data},
        "mark": {"type": "text", "align": "left", "dx": 6, "color": "var(--ink-3)"},
        "encoding": {
            "x": x,
            "y": {"value": -7},
            "text": {"field": "phase", "type": "nominal"},
        },
    }


def _map(history: History) -> dict[str, Any]:
    x = _x(history, axis=True)
    return {
        "width": _WIDTH,
        "height": {"step": _STEP},
        "data": {"values": list(_stretches(history))},
        "mark": {"type": "rect", "strokeWidth": 0},
        "encoding": {
            "x": x,
            "x2": {"field": "end"},
            "y": {
                "field": "layer",
                "type": "nominal",
                "sort": list(history.layers),
                "title": None,
                "axis": {
                    "labelLimit": 150,
                    "labelFontSize": 10,
                    "ticks": False,
                    "domain": False,
                },
            },
            "color": {
                "field": "kept",
                "type": "quantitative",
                "scale": {
                    "type": "quantize",
                    "domain": [0, history.units],
                    "range": list(_SHADES),
                },
                "legend": {
                    "orient": "top",
                    "direction": "horizontal",
                    "title": f"units kept of {history.units}",
                    "symbolType": "square",
                    "format": ".0f",
                },
            },
            "description": {"field": "told", "type": "nominal"},
        },
    }


def _stretches(history: History) -> Iterator[dict[str, Any]]:
    """The steps over which a layer keeps the same, as one piece each."""
    steps = [(step.step, step.kept) for step in history.steps if step.kept]
    # What is fixed is no longer logged, and stays to the end.
    end = max(history.steps[-1].step, steps[0][0] + 1)
    for place, layer in enumerate(history.layers):
        start, value = steps[0][0], steps[0][1][place]
        for step, kept in [*steps[1:], (end, None)]:
            if kept is None or kept[place] != value:
                told = f"{layer}: {value} of {history.units} units, steps {start} to {step}"
                yield {"layer": layer, "step": start, "end": step, "kept": value, "told": told}
                start, value = step, value if kept is None else kept[place]


def _ends(history: History) -> str:
    figures = [step.psnr for step in history.steps if step.psnr is not None]
    if not figures:
        return ""
    first, last = fixed(figures[0]), fixed(figures[-1])
    return f"PSNR goes from {first} to {last} dB, {fixed(max(figures)) or NOTHING} dB at best."
