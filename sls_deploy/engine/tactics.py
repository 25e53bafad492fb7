"""Which kernels a loaded engine runs, by what the vendor's inspector tells of its layers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sls_deploy.engine.evidence import Evidence, LayerEvidence, judge
from sls_deploy.engine.sparsity_log import nodes_of
from sls_deploy.errors import SlsError

_SPARSE = ("sparse", "sptensor")
"""What names of sparse kernels hold: 'sm80_xmma_fprop_avdt_sparse_int8int8_...' (NVIDIA/TensorRT
4020), 'sm80_xmma_sparse_gemm_..._sptensor16x8x32' (cuSPARSELt)."""
_COMPILED = "__my"
"""How names begin that Myelin makes up, '__myl_...' or '__myelin_CASK_STUB': they tell nothing."""
_ONLY_MOVES = frozenset({"Constant", "NoOp", "Reformat", "kgen", "signal", "wait"})
"""Types of layers that hold no weight, though names of layers that do may stand in theirs."""
_DISAGREE = "TensorRT's log and the name of the kernel disagree"


@dataclass(frozen=True)
class LayerTactic:
    """The kernel of one layer of an engine."""

    name: str
    """Name of the layer, in the vendor's words."""
    nodes: tuple[str, ...]
    """Nodes of the graph that it computes."""
    tactic: str
    """Name of the kernel; empty if the vendor names none."""
    sparse: bool | None
    """Whether it is a sparse kernel; None if its name does not tell."""


def read_tactics(information: str) -> tuple[LayerTactic, ...]:
    """Read the inspector's JSON of a whole engine.

    Args:
        information: of an engine built with ProfilingVerbosity.DETAILED. Other engines give names
            of layers only, and so no kernels.

    Returns:
        Layers that may hold a weight, in the inspector's order.

    Raises:
        SlsError: it is no such JSON.
    """
    try:
        layers = json.loads(information, strict=False)["Layers"]
        return tuple(_tactic(layer) for layer in layers if _may_compute(layer))
    except (ValueError, KeyError, TypeError, AttributeError):
        what = "describes its layers in a form that is not known"
        raise SlsError(what, "the inspector of the engine", "Build the engine again.") from None


def with_tactics(evidence: Evidence, tactics: Iterable[LayerTactic]) -> Evidence:
    """Evidence with the kernels of an engine that was loaded on a GPU.

    A layer whose kernel is not told stays what it was. One that TensorRT named as sparse stays
    sparse: its own words count for more than what the name of a kernel lets one guess.
    """
    tactics = tuple(tactics)
    layers = tuple(_with_tactic(layer, tactics) for layer in evidence.layers)
    return judge(layers, evidence.log, loaded=True)


def runs_sparse(tactics: Iterable[LayerTactic]) -> bool | None:
    """Whether an engine runs a sparse kernel; None if no kernel of it is told."""
    known = [tactic.sparse for tactic in tactics if tactic.sparse is not None]
    return any(known) if known else None


def _may_compute(layer: str | Mapping[str, Any]) -> bool:
    return isinstance(layer, str) or layer.get("LayerType") not in _ONLY_MOVES


def _tactic(layer: str | Mapping[str, Any]) -> LayerTactic:
    if isinstance(layer, str):
        return LayerTactic(layer, nodes_of(layer), "", None)
    name, tactic = str(layer["Name"]), str(layer.get("TacticName", ""))
    nodes = nodes_of(str(layer.get("Metadata") or "") or name)
    return LayerTactic(name, nodes, tactic, _is_sparse(tactic, layer.get("HasSparseWeights")))


def _is_sparse(tactic: str, sparse_weights: Any) -> bool | None:
    if any(word in tactic.lower() for word in _SPARSE):
        return True
    if sparse_weights is not None and not sparse_weights:
        return False
    return None if not tactic or tactic.startswith(_COMPILED) else False


def _with_tactic(layer: LayerEvidence, tactics: Iterable[LayerTactic]) -> LayerEvidence:
    own = [tactic for tactic in tactics if layer.name in tactic.nodes]
    if not own:
        return layer
    # A node may stand in several layers. One sparse kernel is proof; one that is unknown is none.
    chosen = max(own, key=lambda tactic: (tactic.sparse is True, tactic.sparse is None))
    if chosen.sparse is None:
        return replace(layer, tactic=chosen.tactic)
    known = layer.chosen or chosen.sparse
    disagree = layer.chosen is not None and layer.chosen is not chosen.sparse
    note = "; ".join(filter(None, (layer.note, _DISAGREE if disagree else "")))
    return replace(layer, chosen=known, tactic=chosen.tactic, note=note)
