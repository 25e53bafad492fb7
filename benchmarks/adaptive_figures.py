"""The curve and the table of the benchmark of adaptive inference."""

from __future__ import annotations

from typing import Any

import vl_convert


def chart(record: dict[str, Any], title: str) -> str:
    """The curves as SVG."""
    rows = [
        {"cost": cost, "psnr": value, "choice": name}
        for name, values in record["psnr"]["pooled"].items()
        for cost, value in zip(record["costs"], values, strict=True)
    ]
    points = [
        {"cost": cost, "psnr": value}
        for cost, value in zip(record["single"]["costs"], record["single"]["pooled"], strict=True)
    ]
    x = {"field": "cost", "type": "quantitative", "title": "mean cost, share of dense MACs"}
    scale = {"zero": False}
    y = {
        "field": "psnr",
        "type": "quantitative",
        "title": "PSNR of the mean error, dB",
        "scale": scale,
    }
    order = ["oracle", "estimator", "gradient", "chord", "random"]
    colour = {"field": "choice", "type": "nominal", "title": None, "sort": order}
    spec = {
        "title": title,
        "width": 640,
        "height": 360,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line"},
                "encoding": {"x": x, "y": y, "color": colour},
            },
            {
                "data": {"values": points},
                "mark": {"type": "point", "filled": True, "color": "black", "size": 60},
                "encoding": {"x": x, "y": y},
            },
        ],
    }
    return vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])


def table(records: dict[str, dict[str, Any]]) -> str:
    """Gains over the chord, as Markdown."""
    lines = [
        "| pictures | choice | pooled: mean gain, least, share of oracle "
        "| mean of pictures: mean gain, least, share of oracle |",
        "|---|---|---|---|",
    ]
    for name, record in records.items():
        for way in sorted(record["pooled"].keys() - {"chord"}, reverse=True):
            cells = []
            for measure_of in ("pooled", "pictures"):
                gain = record[measure_of][way]
                mean, least = gain["mean gain dB"], gain["least gain dB"]
                cells.append(f"{mean:+.3f}, {least:+.3f}, {gain['share of oracle']:.0%}")
            lines.append(f"| {name} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)
