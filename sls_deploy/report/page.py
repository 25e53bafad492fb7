"""The report's page: one HTML file that opens from disk and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sls_deploy.report import page_numbers as numbers
from sls_deploy.report.page_views import draw_curves, view_budgets
from sls_deploy.report.schema import RunReport
from sls_deploy.report.verdict import folder_name

_PACKAGE = "sls_deploy.report"
_METRICS = {"psnr_y": "Y-PSNR", "psnr_rgb": "RGB-PSNR"}
_MODELS = {
    "macs": "Multiply-accumulates",
    "executable": "What tensor cores run",
    "latency": "Latency, estimated",
    "measured": "Latency, timed",
}
_LEVELS = {
    "none": "nothing is proven",
    "L0": "the weights in the ONNX file are 2:4",
    "L1": "these weights are in the engine, byte for byte",
    "L2": "TensorRT found the layers eligible",
    "L3": "TensorRT chose sparse kernels",
    "L4": "timed with sparse kernels on and off",
}


def render_report(report: RunReport, images: Mapping[str, bytes]) -> str:
    """Write the page of a run.

    Args:
        report: what to show.
        images: PNG files by the paths that `Crop.files` names.

    Returns:
        HTML with style, script, charts and pictures inside.
    """
    return render_page(
        "report.html",
        report=report,
        budgets=view_budgets(report),
        curves=draw_curves(report.curves, folder_name(report.run)),
        images={name: _data_uri(png) for name, png in images.items()},
    )


def render_page(template: str, **content: object) -> str:
    """Fill in one of the templates; everything that is no `Markup` is escaped."""
    style, script = _static("page.css"), _static("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            style_hash=_content_hash(style),
            script_hash=_content_hash(script),
            metrics=_METRICS,
            models=_MODELS,
            levels=_LEVELS,
            **content,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": numbers.fixed,
        "change": numbers.change,
        "fidelity": numbers.fidelity,
        "share": numbers.share,
        "levels": numbers.levels,
        "short": numbers.short,
        "thousands": numbers.thousands,
        "mebibytes": numbers.mebibytes,
        "duration": numbers.seconds,
        "brief_hash": numbers.brief_hash,
        "folder_name": folder_name,
    }
    environment.globals |= {
        "interval": numbers.interval,
        "pattern": numbers.pattern,
        "nothing": numbers.NOTHING,
    }
    return environment


@cache
def _static(name: str) -> str:
    return (resources.files(_PACKAGE) / "static" / name).read_text("utf-8")


def _content_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline text that it lets through."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
