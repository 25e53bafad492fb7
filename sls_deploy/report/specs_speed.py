"""The chart of measured times."""

from __future__ import annotations

from typing import Any

from sls_deploy.report.charts import Chart
from sls_deploy.report.page_numbers import fixed
from sls_deploy.runtime.bench_result import Bench

_WIDTH, _STEP = 760, 30


def speed_chart(bench: Bench) -> Chart:
    """Draw the median time of each form, and with a line how far its 99th percentile lies.

    Args:
        bench: at least one row.
    """
    values = [
        {
            "name": row.name,
            "median": row.timing.p50,
            "slow": row.timing.p99,
            "text": f"{fixed(row.timing.p50, 1)} ms",
            "first": place == 0,
            "told": f"{row.name}: median {row.timing.p50:.2f} ms, 99 % below {row.timing.p99:.2f}",
        }
        for place, row in enumerate(bench.rows)
    ]
    top = 1.18 * max(row.timing.p99 for row in bench.rows)
    x: dict[str, Any] = {
        "type": "quantitative",
        "scale": {"domain": [0, top], "nice": False},
        "axis": {"title": "time of a run, ms", "tickCount": 6},
    }
    y = {
        "field": "name",
        "type": "nominal",
        "sort": [row.name for row in bench.rows],
        "title": None,
        "axis": {"labelLimit": 190, "ticks": False, "domain": False, "labelFontSize": 12},
    }
    colour = {
        "condition": {"test": "datum.first", "value": "var(--quiet-mark)"},
        "value": "var(--accent)",
    }
    told = {"field": "told", "type": "nominal"}
    bar = {
        "mark": {"type": "bar", "height": 14},
        "encoding": {"x": {**x, "field": "median"}, "y": y, "color": colour, "description": told},
    }
    spread = {
        "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1},
        "encoding": {"x": {**x, "field": "median"}, "x2": {"field": "slow"}, "y": y},
    }
    words = {
        "mark": {"type": "text", "align": "left", "dx": 8},
        "encoding": {"x": {**x, "field": "slow"}, "y": y, "text": {"field": "text"}},
    }
    spec = {
        "width": _WIDTH,
        "height": {"step": _STEP},
        "data": {"values": values},
        "layer": [bar, spread, words],
    }
    place = "x".join(map(str, bench.shape))
    least = min(bench.rows, key=lambda row: row.timing.p50)
    told_all = f"The fastest is {least.name} with {fixed(least.timing.p50, 1)} ms."
    return Chart(spec, f"Time of a run on {place}", told_all, (), ())
