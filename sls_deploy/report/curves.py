"""Quality against cost over all budgets, and over other runs that pruned the same network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sls_deploy.errors import SlsError
from sls_deploy.report.layers import layer_rows, macs_left
from sls_deploy.report.schema import BudgetReport, Curve, Network, Point
from sls_deploy.report.stored import read_proof, read_validations
from sls_deploy.run import CONFIG, Run
from sls_deploy.search.outcome import RATIOS
from sls_deploy.sparsity.ratios import read_ratios
from sls_deploy.validate.figures import DENSE, SPARSE, StageFigures, Validation

COLOURS = {"psnr_y": "Y-PSNR", "psnr_rgb": "RGB-PSNR"}
"""What the headline figures are called."""
_SAME = 1e-6
"""Most that the figures of one dense network on the same pictures may differ by, dB."""


@dataclass(frozen=True)
class Measured:
    """A budget as it was measured on one folder of pictures."""

    series: str
    """What it belongs to."""
    label: str
    """What it is."""
    own: bool
    """Whether it is of the run that the curve is drawn for."""
    network_cost: float
    """Share that is left of the whole network's multiply-accumulates."""
    validation: Validation
    """The figures."""


def measured(
    series: str, budgets: Iterable[BudgetReport], *, own: bool, size: float = 1.0
) -> list[Measured]:
    """The budgets of a run that were measured on pictures with truth.

    Args:
        series: name of the run.
        budgets: its budgets.
        own: whether the curve is drawn for this run.
        size: multiply-accumulates of its dense network over those that costs are told as shares of.
    """
    return [
        Measured(
            series,
            f"budget {budget.budget:g}" if own else f"{series}, budget {budget.budget:g}",
            own,
            size * macs_left(budget.layers),
            validation,
        )
        for budget in budgets
        for validation in budget.validations
        if validation.totals
    ]


def draw(own: Sequence[Measured], others: Sequence[Measured]) -> tuple[Curve, ...]:
    """One curve for each set of pictures that this run was measured on.

    Args:
        own: of this run.
        others: of other runs that pruned the same network; those that were measured on other
            pictures, or whose dense network came out otherwise, are left out.
    """
    curves: list[Curve] = []
    left = list(own)
    while left:
        first = left[0].validation
        here = [
            one
            for one in left
            if one.validation.folder == first.folder and same_pictures(first, one.validation)
        ]
        left = [one for one in left if one not in here]
        # Another run may have been measured on copies, and on several.
        beside = {one.label: one for one in others if same_pictures(first, one.validation)}
        curves.append(curve_of(first, [*here, *beside.values()]))
    return tuple(sorted(curves, key=lambda curve: curve.folder))


def curve_of(validation: Validation, points: Iterable[Measured]) -> Curve:
    """A curve through the dense network and some budgets.

    Args:
        validation: tells the pictures, and the dense network's figure.
        points: budgets measured on the same pictures.
    """
    metric = validation.protocol.metric
    dense = Point("dense", "dense", own=True, network_cost=1.0, value=value(validation, DENSE))
    found = [
        Point(one.label, one.series, one.own, one.network_cost, value(one.validation, SPARSE))
        for one in points
    ]
    found.sort(key=lambda point: (not point.own, point.series, -point.network_cost))
    return Curve(validation.folder, COLOURS[metric], (dense, *found))


def runs_beside(run: Run, network: Network) -> list[Measured]:
    """What other runs in the same folder reached with the same dense network.

    A run that cannot be read, or is not current, is left out without a word: it is another's.

    Args:
        run: this run.
        network: its dense network, which costs are told as shares of.
    """
    found: list[Measured] = []
    here = run.path.resolve()
    for config in sorted(here.parent.glob(f"*/{CONFIG}")):
        if config.parent != here:
            with suppress(SlsError, OSError, KeyError, TypeError, ValueError):
                found += _beside(Run(config.parent), network)
    return found


def same_pictures(a: Validation, b: Validation) -> bool:
    """Whether the same dense network was measured on the same pictures in the same way."""
    return alike(a, b) and math.isclose(value(a, DENSE), value(b, DENSE), rel_tol=0, abs_tol=_SAME)


def alike(a: Validation, b: Validation) -> bool:
    """Whether pictures of the same names were measured against a truth in the same way."""
    ways = ((one.scale, one.protocol.metric, one.protocol.shave, names(one)) for one in (a, b))
    return bool(a.totals and b.totals) and len(set(ways)) == 1


def names(validation: Validation) -> tuple[str, ...]:
    """Names of the pictures."""
    return tuple(picture.name for picture in validation.stages[0].pictures)


def value(validation: Validation, stage: str) -> float:
    """Mean of the headline figure of a stage, dB.

    Raises:
        ValueError: there is no such stage, or no truth.
    """
    return headline(stage_of(validation, stage), validation)


def stage_of(validation: Validation, stage: str) -> StageFigures:
    """The figures of a stage.

    Raises:
        ValueError: there is none of that name.
    """
    for figures in validation.stages:
        if figures.name == stage:
            return figures
    raise ValueError(f"{validation.folder} has no stage {stage}")


def headline(figures: StageFigures, validation: Validation) -> float:
    """Mean of the headline figure over the pictures, dB.

    Raises:
        ValueError: there is no truth.
    """
    if figures.quality is None:
        raise ValueError(f"{validation.folder} has no truth")
    found: float = getattr(figures.quality, validation.protocol.metric)
    return found


def _beside(run: Run, network: Network) -> Iterator[Measured]:
    for budget in run.budgets("search"):
        ratios = read_ratios(run.folder("search", budget) / RATIOS)
        if ratios.get("dense_sha256") != network.sha256:
            continue
        run.require("search", budget)
        # The same network is larger where channels were filled up.
        size = ratios["macs_per_pixel"] / network.macs_per_pixel
        share = size * macs_left(layer_rows(ratios, read_proof(run, budget, [])))
        series = run.path.name
        for validation in read_validations(run, budget, []):
            if validation.totals:
                label = f"{series}, budget {budget:g}"
                yield Measured(series, label, False, share, validation)
