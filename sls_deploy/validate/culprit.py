"""Who is to blame for a gate that failed: a step of the flow, and a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.crops import where_most
from sls_deploy.validate.figures import Culprit, Gate, Loss, Metric, StageFigures
from sls_deploy.validate.losses import cause_of, picture_losses

_SIDE = 96
"""Side in input pixels of the part of a picture that is bisected: all activations are kept."""
_NEAR_DB = 20.0
"""How far above its limit a value may lie to be blamed: it has then a hundredth of that error."""
Step = tuple[StageFigures, StageFigures]
"""A stage and the one that it was made from."""


def find_culprit(
    gate: Gate,
    stages: Sequence[StageFigures],
    losses: Sequence[Loss],
    degraded: Pictures,
    bisect: Mapping[str, Callable[[Pictures], Bisection]],
    ratios: Mapping[str, Any] | None,
    metric: Metric,
    place: Callable[[], tuple[int, int]] | None = None,
) -> Culprit:
    """Name the step that did most to a gate's worst picture, and the layer in it.

    The step is the one that lost most along the way from the stage back to dense PyTorch; of
    fidelity, the one that moved the picture most, back to the PyTorch stage that it is to equal.
    The layer of an ONNX file is the first whose value departs from PyTorch's on a part of that
    picture. An engine cannot be looked into: if the ONNX file of its precision departs, that is to
    blame, else the engine itself. Of pruning, it is the layer that alone loses most.

    Args:
        gate: one that failed.
        stages: dense PyTorch first.
        losses: of each step, over all pictures; empty where there is no truth.
        degraded: the input of the gate's picture, of any size.
        bisect: by a stage's name, what compares its graph with PyTorch on an input.
        ratios: ratios.json, with 'refill' only if those weights were exported; None without one.
        metric: the figure whose loss counts.
        place: gives row and column of the input, in pixels, around which values are compared, and
            is asked only if they are; the middle if left out. See `place_of_error`.
    """
    named = {stage.name: stage for stage in stages}
    steps = _steps(gate, named)
    if gate.rule in ("loss", "worst picture"):
        lost = [picture_losses(*step, metric)[gate.picture] for step in steps]
        at = int(np.argmax(lost))
        stage, before = steps[at]
        cause = cause_of(stage.stage, before.stage)
        finding = f"{cause} loses {lost[at]:.2f} of {math.fsum(lost):.2f} dB there"
        mean = next((loss.mean_db for loss in losses if loss.stage == stage.name), None)
        finding += "" if mean is None else f" ({mean:.2f} dB over all pictures)"
    else:
        levels = [_level(stage, gate.picture) for stage, _ in steps]
        at = int(np.argmin(levels))
        stage, before = steps[at]
        cause = cause_of(stage.stage, before.stage)
        finding = f"{cause} leaves {levels[at]:.1f} dB between {stage.name} and {before.name} there"
    if stage.stage.kind == "sparse":
        layer, told = _pruned_layer(ratios)
    else:
        layer, told = _departing_layer(stage, degraded, bisect.get(stage.name), place)
    return Culprit(gate.picture, cause, layer, f"{finding}; {told}")


def place_of_error(expected: Pictures, output: Pictures, scale: int) -> tuple[int, int]:
    """Row and column of the input around which two outputs differ most.

    Args:
        expected: NCHW, one picture.
        output: another of that shape.
        scale: output pixels for one input pixel, along each side.
    """
    error = ((output[0].astype(np.float64) - expected[0]) ** 2).sum(0)
    height, width = (min(_SIDE * scale // 4, size) for size in error.shape)
    top, left = where_most(error, height, width)
    return (top + height // 2) // scale, (left + width // 2) // scale


def _steps(gate: Gate, named: Mapping[str, StageFigures]) -> list[Step]:
    """The steps that a gate speaks of, the first one first."""
    stage = named[gate.stage]
    end = stage.stage.reference if gate.rule == "fidelity" else ""
    steps: list[Step] = []
    while stage.name != end and stage.stage.previous:
        before = named[stage.stage.previous]
        steps.append((stage, before))
        stage = before
    return steps[::-1]


def _level(stage: StageFigures, picture: str) -> float:
    """PSNR to the stage before on one picture, dB; infinite where both are equal."""
    figures = next(item.to_previous for item in stage.pictures if item.name == picture)
    return math.inf if figures is None or figures.psnr_db is None else figures.psnr_db


def _pruned_layer(ratios: Mapping[str, Any] | None) -> tuple[str, str]:
    """The layer that pruning hurt most, and how that is known."""
    if ratios is None:
        return "", "no search is known that could name a layer"
    refilled = ratios.get("refill", {}).get("layers", ())
    alone: dict[str, float] = {}
    narrowed = 0
    for layer in ratios["layers"]:
        name, of = layer["name"], layer["of"]
        kept = of // 2 if name in refilled else layer["kept"]
        alone[name] = dict(layer.get("sensitivity", ())).get(kept, 0.0)
        narrowed += list(layer.get("width", ())) != list(layer.get("shape", ()))[:2]
    total = math.fsum(alone.values())
    narrower = f"; what {narrowed} narrower ones lose by that was not measured layer by layer"
    if not total:
        told = "the search did not measure what each layer alone loses"
        return "", told + (narrower if narrowed else "")
    layer = max(alone, key=lambda name: alone[name])
    share = 100 * alone[layer] / total
    told = f"layer '{layer}' has {share:.0f} % of what all layers lose, each measured alone in the"
    return layer, f"{told} search{narrower if narrowed else ''}"


def _departing_layer(
    stage: StageFigures,
    degraded: Pictures,
    bisect: Callable[[Pictures], Bisection] | None,
    place: Callable[[], tuple[int, int]] | None,
) -> tuple[str, str]:
    """The layer of a graph that departs from PyTorch first, and how that is known."""
    in_engine = stage.stage.kind == "engine"
    if bisect is None:
        file = "no ONNX file of its precision is" if in_engine else "its graph is not"
        return "", f"{file} there to compare layer by layer"
    part, where = _part(degraded, place() if place else None)
    try:
        found = bisect(part)
    except SlsError as error:
        return "", f"its graph cannot be compared layer by layer ({error.what})"
    if in_engine and found.passed:
        told = f"the ONNX file of its precision agrees with PyTorch {where}"
        return "", f"{told}, so it arises in the engine"
    file = "the ONNX file of its precision departs: " if in_engine else ""
    if found.first is not None:
        return found.first.layer or found.first.node, f"{file}{found} {where}"
    none = f"layer by layer none of {len(found.values)} values lies below {found.limit_db:g} dB"
    worst = found.worst
    if worst is None or worst.psnr_db > found.limit_db + _NEAR_DB:
        return "", f"{none} {where}"
    fall = f"from {worst.before_db:.1f} to {worst.psnr_db:.1f} dB"
    return worst.layer or worst.node, f"{none}; {worst.told} adds the most error ({fall}) {where}"


def _part(degraded: Pictures, place: tuple[int, int] | None) -> tuple[Pictures, str]:
    """A part of an input that is small enough to keep all activations, and its place in words."""
    sizes = degraded.shape[2:]
    middle = place or (sizes[0] // 2, sizes[1] // 2)
    top, left = (
        min(max(at - _SIDE // 2, 0), max(size - _SIDE, 0))
        for at, size in zip(middle, sizes, strict=True)
    )
    part = np.ascontiguousarray(degraded[:, :, top : top + _SIDE, left : left + _SIDE])
    height, width = part.shape[2:]
    where = f"on {width}x{height} input pixels from row {top}, column {left}"
    return part, "on the whole input" if part.shape == degraded.shape else where
