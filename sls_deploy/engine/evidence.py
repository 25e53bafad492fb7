"""How far it is proven that an engine is sparse, layer by layer and by level.

L0: the ONNX weights are 2:4-legal. L1: these bytes are in the plan. L2: TensorRT found layers
eligible. L3: TensorRT chose a sparse kernel. L2 and L3 need a GPU at build time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from sls_deploy.onnx_layers import weight_uses
from sls_deploy.sparsity.legality import is_2_4, why_not_eligible

_PADDINGS = (1, 2, 4, 8)
"""Multiples that the channels of a stored weight may be filled up to with zeros. Measured on
TensorRT for RTX 1.7: fp32 as they are, fp16 an even number; 4 and 8 are for other versions."""
_FEWEST = 16
"""Distinct nonzero values that a weight needs for a match not to be an accident."""
_UNKNOWN = "kernel choice unknown until it is loaded on a GPU"


@dataclass(frozen=True)
class LayerEvidence:
    """What is known of one convolution."""

    name: str
    """Name of its node in the graph."""
    onnx_initializer: str
    """Name of its weight; empty if that could not be followed."""
    c_in: int
    """Input channels."""
    groups: int
    """Convolution groups."""
    legal_2_4: bool
    """At most two nonzeros in every four consecutive input channels."""
    eligible: bool
    """May run on sparse tensor cores: legal, one group, input channels a multiple of 4."""
    reason: str
    """Why it is not eligible, or why its bytes say nothing; else empty."""
    bytes_in_plan: bool | None
    """Whether the plan holds exactly these weights; None if that cannot be told."""


@dataclass(frozen=True)
class SparsityLog:
    """What TensorRT said when it built on a GPU; None where it said nothing."""

    eligible: int | None = None
    """Layers that it found eligible for sparse kernels."""
    chosen: int | None = None
    """Layers that it runs with a sparse kernel."""


@dataclass(frozen=True)
class Evidence:
    """All that is known of one engine's sparsity."""

    level: Literal["none", "L0", "L1", "L2", "L3"]
    """Highest level reached; 'none' if no layer is eligible."""
    statement: str
    """The level in a sentence."""
    log: SparsityLog
    """What TensorRT said itself."""
    layers: tuple[LayerEvidence, ...]
    """Every convolution, in the order of the graph."""


def gather_evidence(
    model: onnx.ModelProto, plan: bytes, sparsity_log: Iterable[str] = ()
) -> Evidence:
    """Judge an engine by its source graph, its bytes and the vendor's log."""
    layers = tuple(_layers(model, plan))
    log = read_sparsity_log(sparsity_log)
    eligible = [layer for layer in layers if layer.eligible]
    told = [layer.bytes_in_plan for layer in eligible if layer.bytes_in_plan is not None]
    found = f"{sum(told)} of {len(eligible)} eligible convolutions' weights found in the plan"
    if log.chosen:
        statement = f"TensorRT chose a sparse kernel for {log.chosen} layers; {found}"
        return Evidence("L3", statement, log, layers)
    if log.eligible:
        chosen = "did not say which kernels it chose" if log.chosen is None else "chose dense ones"
        statement = f"TensorRT found {log.eligible} layers eligible and {chosen}; {found}"
        return Evidence("L2", statement, log, layers)
    if not eligible:
        statement = f"no convolution is eligible for sparse kernels; {_UNKNOWN}"
        return Evidence("none", statement, log, layers)
    level: Literal["L0", "L1"] = "L1" if sum(told) == len(eligible) else "L0"
    return Evidence(level, f"{found}; {_UNKNOWN}", log, layers)


def read_sparsity_log(lines: Iterable[str]) -> SparsityLog:
    """Count layers from lines such as '(Sparsity) Found 3 layer(s) eligible to use ...'."""
    eligible: int | None = None
    chosen: int | None = None
    for line in lines:
        if match := re.search(r"\(Sparsity\) Found (\d+) layer\(s\) eligible", line):
            eligible = int(match[1])
        if match := re.search(r"\(Sparsity\) Chose (\d+) layer\(s\)", line):
            chosen = int(match[1])
    return SparsityLog(eligible, chosen)


def find_weight(weight: NDArray[Any], plan: bytes) -> bool | None:
    """Look a convolution's weight up in a plan, as stored: KRSC, channels filled up with zeros.

    Args:
        weight: [C_out, C_in per group, kernel height, kernel width], in the graph's precision.
        plan: the serialised engine.

    Returns:
        True if all of it stands there in one piece; None if the weight has so few distinct
        values that finding it would prove nothing.
    """
    if len(np.unique(weight[weight != 0])) < _FEWEST:
        return None
    krsc = np.moveaxis(weight, 1, -1)
    widths = {krsc.shape[-1] + -krsc.shape[-1] % multiple for multiple in _PADDINGS}
    return any(_padded(krsc, width).tobytes() in plan for width in sorted(widths))


def _padded(krsc: NDArray[Any], width: int) -> NDArray[Any]:
    return np.pad(krsc, [(0, 0)] * (krsc.ndim - 1) + [(0, width - krsc.shape[-1])])


def _layers(model: onnx.ModelProto, plan: bytes) -> Iterator[LayerEvidence]:
    for use in weight_uses(model):
        if not use.operator.startswith("Conv"):
            continue
        if use.weight is None:
            yield LayerEvidence(use.node, "", 0, use.groups, False, False, use.reason, None)
            continue
        channels = use.filters.shape[1]
        legal = is_2_4(use.filters)
        found = find_weight(use.filters, plan)
        not_eligible = why_not_eligible(
            channels, use.groups, legal=legal, transposed=use.operator == "ConvTranspose"
        )
        about_bytes = {
            True: "",
            False: "its weights are not in the plan as they are: folded, reordered or replaced",
            None: "its weights are too few to tell them from other bytes",
        }[found]
        yield LayerEvidence(
            name=use.node,
            onnx_initializer=use.weight.name,
            c_in=channels * use.groups,
            groups=use.groups,
            legal_2_4=legal,
            eligible=not not_eligible,
            reason="; ".join(filter(None, (not_eligible, about_bytes))),
            bytes_in_plan=found,
        )
