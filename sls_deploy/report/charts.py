"""Charts as inline SVG: drawn by Vega-Lite, coloured by the page, told in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as Tree  # reads only what Vega wrote a moment ago

import vl_convert
from markupsafe import Markup

_SVG = "http://www.w3.org/2000/svg"
_LONG = re.compile(r"-?\d+\.\d{2,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_SPOKEN = ("role", "aria-roledescription", "aria-hidden")
"""The chart has one name and a table: its marks are not read out one by one."""
FONT_SIZE = 11
"""Of everything that is written in a chart, pixels."""

_CONFIG: dict[str, Any] = {
    # Only measured with it: the page's style sets the font that is shown.
    "font": "Liberation Sans",
    "background": None,
    # The font that is shown may be wider than the one that is measured with.
    "padding": {"left": 26, "right": 34, "top": 6, "bottom": 6},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line-2)",
        "tickColor": "var(--line-2)",
        "labelFontSize": FONT_SIZE,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 5,
        "labelFlush": False,
    },
    "legend": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "labelFontSize": FONT_SIZE,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "labelLimit": 400,
        "columnPadding": 28,
        "gradientStrokeColor": "var(--line)",
    },
    "text": {"color": "var(--ink)", "fontSize": FONT_SIZE},
    "rule": {"color": "var(--line-2)"},
    "line": {"strokeWidth": 1.75},
}


@dataclass(frozen=True)
class Chart:
    """What is drawn, and the same in words and figures."""

    spec: Mapping[str, Any]
    """Vega-Lite, with its data inside. A mark's `description` is what its tip says."""
    title: str
    """Its name."""
    description: str
    """What is to be seen, for those who do not see it."""
    header: tuple[str, ...]
    """Columns of its table of data, units included."""
    rows: Sequence[tuple[str, ...]]
    """Its data, as they are to be read; the first cell is the row's name."""


def draw(chart: Chart, name: str) -> Markup:
    """Draw a chart.

    Args:
        chart: what to draw.
        name: begins the ids in it; unlike every other's on the page, letters, digits and hyphens.

    Returns:
        One SVG element with a title and a description. Its colours are variables of the page.
    """
    return Markup(_finished(_drawn(chart.spec), chart, name))  # noqa: S704 - Vega escapes its text


def _drawn(spec: Mapping[str, Any]) -> str:
    # A chart has its data inside: nothing may be fetched.
    return vl_convert.vegalite_to_svg({**spec, "config": _CONFIG}, allowed_base_urls=[])


def _finished(svg: str, chart: Chart, name: str) -> str:
    """Name it, make its ids its own, drop roles, keep two decimals."""
    Tree.register_namespace("", _SVG)
    root = Tree.fromstring(svg)  # noqa: S314 - written by Vega
    for element in root.iter():
        for key in _SPOKEN:
            element.attrib.pop(key, None)
        told = element.attrib.pop("aria-label", None)
        if told is not None and element.tag in {f"{{{_SVG}}}path", f"{{{_SVG}}}line"}:
            element.set("data-told", told)
        for key, value in element.attrib.items():
            if key in {"d", "transform", "x", "y", "x1", "x2", "y1", "y2"}:
                element.set(key, _LONG.sub(_rounded, value))
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif "url(#" in value:
                element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
            elif key == "font-family":
                element.set(key, "inherit")
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-told")
    for place, (tag, text) in enumerate((("title", chart.title), ("desc", chart.description))):
        child = Tree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{('title', 'told')[place]}"})
        child.text = text
        root.insert(place, child)
    return Tree.tostring(root, encoding="unicode")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
