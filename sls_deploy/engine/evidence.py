"""How far it is proven that an engine is sparse, layer by layer and by level.

L0: the ONNX weights are 2:4-legal. L1: these bytes are in the plan. L2: TensorRT found layers
eligible. L3: TensorRT chose a sparse kernel. L4: the engine was timed with sparsity on and off.
L2 to L4 need a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from sls_deploy.engine.eligibility import SELDOM_BELOW, Quantisers, why_not_sparse
from sls_deploy.engine.sparsity_log import SparsityLog, is_named, read_sparsity_log
from sls_deploy.engine.weight_bytes import find_weight, rounded_to
from sls_deploy.onnx_layers import WeightUse, weight_uses
from sls_deploy.sparsity.legality import is_2_4

Level = Literal["none", "L0", "L1", "L2", "L3", "L4"]
"""How much is proven; 'none' if no layer is eligible."""
_PRODUCTS = ("Gemm", "MatMul")
_UNKNOWN = "kernel choice unknown until it is loaded on a GPU"
_UNNAMED = "the loaded engine does not name the kernels"
_CHANGED = "its weights are not in the plan as they are: folded, reordered or replaced"
_TOO_FEW = "its weights are too few to tell them from other bytes"


@dataclass(frozen=True)
class LayerEvidence:
    """What is known of one layer: a convolution, or a product with a matrix of weights."""

    name: str
    """Name of its node in the graph."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    onnx_initializer: str
    """Name of its weight; empty if that could not be followed."""
    precision: str
    """Precision of its weight, such as 'fp16' or 'int8'; empty if it could not be followed."""
    c_in: int
    """Input channels."""
    groups: int
    """Convolution groups."""
    legal_2_4: bool
    """At most two nonzeros in every four consecutive input channels."""
    eligible: bool
    """May run on sparse tensor cores: legal, one group, input channels a multiple of 4, and in a
    precision that they compute."""
    reason: str
    """Why it is not eligible; empty if it is."""
    bytes_in_plan: bool | None
    """Whether the plan holds exactly these weights; None if that cannot be told."""
    note: str = ""
    """Why its bytes say nothing, or why a sparse kernel is unlikely; else empty."""
    found: bool | None = None
    """Whether TensorRT named it as eligible; None if it did not tell."""
    chosen: bool | None = None
    """Whether TensorRT runs it with a sparse kernel; None if it did not tell."""
    tactic: str = ""
    """Name of the kernel that runs it; empty until the engine was loaded on a GPU."""


@dataclass(frozen=True)
class Evidence:
    """All that is known of one engine's sparsity."""

    level: Level
    """Highest level reached."""
    statement: str
    """The level in a sentence."""
    log: SparsityLog
    """What TensorRT said itself."""
    layers: tuple[LayerEvidence, ...]
    """Every layer, in the order of the graph."""


def gather_evidence(
    model: onnx.ModelProto, plan: bytes, sparsity_log: Iterable[str] = ()
) -> Evidence:
    """Judge an engine by its source graph, its bytes and the vendor's log."""
    log = read_sparsity_log(sparsity_log)
    layers = tuple(_layers(model, plan))
    nodes = frozenset(layer.name for layer in layers)
    told = (
        replace(
            layer,
            found=is_named(layer.name, log.eligible_names, log.eligible, nodes),
            chosen=is_named(layer.name, log.chosen_names, log.chosen, nodes),
        )
        for layer in layers
    )
    return judge(tuple(told), log)


def judge(layers: tuple[LayerEvidence, ...], log: SparsityLog, *, loaded: bool = False) -> Evidence:
    """The level that is reached by what is known of the layers.

    Args:
        layers: every layer of an engine.
        log: what TensorRT said when it built the engine.
        loaded: whether the layers have been asked for their kernels on a GPU.
    """
    eligible = [layer for layer in layers if layer.eligible]
    legal = [layer for layer in layers if layer.legal_2_4]
    found = f"{_found(eligible)} eligible layers' weights found in the plan"
    sparse = log.chosen or sum(layer.chosen is True for layer in layers)
    kernels = _kernels(eligible, loaded=loaded)
    if sparse:
        statement = f"TensorRT chose a sparse kernel for {sparse} layers; {found}"
        return Evidence("L3", statement, log, layers)
    if log.eligible:
        chosen = "did not say which kernels it chose" if log.chosen is None else "chose dense ones"
        statement = f"TensorRT found {log.eligible} layers eligible and {chosen}; {found}"
        return Evidence("L2", statement, log, layers)
    if not eligible:
        but = f", though {len(legal)} are 2:4 ({_found(legal)} in the plan)" if legal else ""
        return Evidence("none", f"no layer is eligible for sparse kernels{but}", log, layers)
    level: Level = "L1" if all(layer.bytes_in_plan for layer in eligible) else "L0"
    return Evidence(level, f"{found}; {kernels}", log, layers)


def _found(layers: Sequence[LayerEvidence]) -> str:
    return f"{sum(layer.bytes_in_plan is True for layer in layers)} of {len(layers)}"


def _kernels(eligible: Sequence[LayerEvidence], *, loaded: bool) -> str:
    """What is known of kernels where none is sparse."""
    dense = sum(layer.chosen is False for layer in eligible)
    if dense:
        return f"dense kernels run {dense} of {len(eligible)} eligible layers"
    return _UNNAMED if loaded else _UNKNOWN


def _layers(model: onnx.ModelProto, plan: bytes) -> Iterator[LayerEvidence]:
    quantisers = Quantisers(model.graph)
    for use in weight_uses(model):
        if use.weight is None:
            yield LayerEvidence(
                name=use.node,
                operator=use.operator,
                onnx_initializer="",
                precision="",
                c_in=0,
                groups=use.groups,
                legal_2_4=False,
                eligible=False,
                reason=use.reason,
                bytes_in_plan=None,
            )
            continue
        legal = is_2_4(use.filters)
        reason = why_not_sparse(use, quantisers, legal=legal)
        in_plan, about_bytes = _in_plan(use, plan)
        notes = (about_bytes, "" if reason else _why_unlikely(use))
        yield LayerEvidence(
            name=use.node,
            operator=use.operator,
            onnx_initializer=use.weight.name,
            precision=use.weight.precision,
            c_in=use.filters.shape[1] * use.groups,
            groups=use.groups,
            legal_2_4=legal,
            eligible=not reason,
            reason=reason,
            bytes_in_plan=in_plan,
            note="; ".join(filter(None, notes)),
        )


def _in_plan(use: WeightUse, plan: bytes) -> tuple[bool | None, str]:
    """Whether a weight is in the plan, and why that is not known or not so."""
    if use.weight is None:
        return None, ""
    weight = use.weight.values.transpose(use.weight.order)
    product = use.operator in _PRODUCTS
    found = find_weight(weight, plan, product=product)
    if found is not False:
        return found, "" if found else _TOO_FEW
    lower = rounded_to(weight, plan, product=product)
    return False, f"its weights are in the plan rounded to {lower}" if lower else _CHANGED


def _why_unlikely(use: WeightUse) -> str:
    """Why TensorRT will hardly choose a sparse kernel for an eligible layer."""
    outputs, inputs = use.filters.shape[:2]
    few = min(outputs, inputs) < SELDOM_BELOW
    return f"few channels: sparse kernels are seldom faster below {SELDOM_BELOW}" if few else ""
