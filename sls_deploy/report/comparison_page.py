"""The page that puts two runs beside each other, in the style of the report's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sls_deploy.files import slug
from sls_deploy.report.comparison import BudgetPair, Comparison, FolderPair, StagePair
from sls_deploy.report.page import render_page
from sls_deploy.report.page_views import draw_curves
from sls_deploy.report.verdict import folder_name
from sls_deploy.validate.figures import SPARSE


@dataclass(frozen=True)
class PairView:
    """One budget of both runs."""

    pair: BudgetPair
    """What is known of it."""
    key: str
    """Its name in ids of the page."""
    headlines: Sequence[tuple[FolderPair, StagePair]]
    """For each set of pictures what is told first: the sparse network in PyTorch."""


def render_comparison(comparison: Comparison) -> str:
    """Write the page of a comparison.

    Args:
        comparison: what to show.

    Returns:
        HTML with style, script and charts inside.
    """
    first, second = folder_name(comparison.a), folder_name(comparison.b)
    same = first == second
    name_a, name_b = (comparison.a, comparison.b) if same else (first, second)
    return render_page(
        "comparison.html",
        comparison=comparison,
        name_a=name_a,
        name_b=name_b,
        budgets=tuple(_view(pair) for pair in comparison.budgets),
        curves=draw_curves(comparison.curves, name_a),
    )


def _view(pair: BudgetPair) -> PairView:
    told = [
        (folder, stage)
        for folder in pair.folders
        for stage in folder.stages
        if stage.stage == SPARSE
    ]
    return PairView(pair, slug(f"b{pair.budget:g}"), told)
