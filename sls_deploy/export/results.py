"""What the export stage tells its caller."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sls_deploy.config import Precision
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS

PROOF = "proof.json"


def exported_weights(exported: Path) -> str:
    """Name of the weights that an export was made from: the searched or the refilled ones."""
    source = json.loads((exported / PROOF).read_text("utf-8"))["source"]
    return next(name for name in (WEIGHTS, REFILLED) if name == source.get("file", WEIGHTS))


@dataclass(frozen=True)
class LayerCounts:
    """How many layers of the network are what."""

    total: int
    """Weights that convolutions and matrix products use."""
    pruned: int
    """Pruned by the search."""
    legal_2_4: int
    """At most 2 nonzeros in every 4 consecutive input channels, in every exported precision."""
    eligible: int
    """Also of a form that an Ampere GPU can run on sparse tensor cores."""


@dataclass(frozen=True)
class PrecisionResult:
    """What is to be known of one precision."""

    file: Path
    """The ONNX file."""
    bytes_file: Path | None
    """The same from bytes to bytes, where that was asked for."""
    parity_db: float
    """PSNR of ONNX Runtime to PyTorch on crops of photographs, in dB; bf16 rounded in fp32."""
    rounded_db: float | None
    """The same for fp16 with every activation rounded, which ONNX Runtime leaves out."""
    place: str
    """Picture, channel, row and column of the largest difference."""
    max_error: float
    """Largest difference, on 0..1."""
    loss_db: float | None
    """PSNR lost to fp32 on calibration pictures; None for fp32."""
    kept: Mapping[str, str]
    """What stays in a higher precision, and why."""


@dataclass(frozen=True)
class ExportResult:
    """What an export left in the run folder."""

    budget: float
    """The budget exported."""
    precisions: Mapping[Precision, PrecisionResult]
    """Each precision's files and figures."""
    proof: Path
    """The evidence: per layer, per precision."""
    layers: LayerCounts
    """Summary of the proof."""
    permutation: Mapping[str, Any] | None
    """What the order of channels gained before masks were chosen; None if it was left alone."""
    cost: float
    """Cost of the exported weights, as a share of the prunable layers' dense cost."""
    refilled: bool
    """Whether layers below N = M/2 were filled up to M/2: they cost more by some models."""
    skipped: bool
    """Whether all of it stood already."""


def read_result(folder: Path, budget: float, *, skipped: bool) -> ExportResult:
    """Read what an export proved.

    Args:
        folder: of the exported budget.
        budget: which one it is.
        skipped: whether the export stood already.
    """
    path = folder / PROOF
    proof = json.loads(path.read_text("utf-8"))
    files = proof["files"]
    layers = [entry["layers"] for entry in files.values()]

    def count(key: str) -> int:
        return sum(all(layer[key] for layer in same) for same in zip(*layers, strict=True))

    return ExportResult(
        budget=budget,
        precisions={name: _precision(folder, entry) for name, entry in files.items()},
        proof=path,
        layers=LayerCounts(len(layers[0]), count("pruned"), count("legal_2_4"), count("eligible")),
        permutation=proof["permutation"],
        cost=proof["cost"],
        refilled=proof["source"]["file"] == REFILLED,
        skipped=skipped,
    )


def _precision(folder: Path, entry: Mapping[str, Any]) -> PrecisionResult:
    parity, rounded = entry["parity"], entry.get("parity_rounded")
    half, int8 = entry.get("half"), entry.get("int8")
    kept = dict(half["keep"]) if half else {}
    if int8:
        kept |= {layer["name"]: layer["reason"] for layer in int8["layers"] if layer["reason"]}
    decided = int8 or half
    return PrecisionResult(
        file=folder / entry["file"],
        bytes_file=folder / entry["uint8"]["file"] if "uint8" in entry else None,
        parity_db=parity["psnr_db"],
        rounded_db=rounded and rounded["psnr_db"],
        place=parity["place"],
        max_error=parity["max_error"],
        loss_db=decided and decided["loss_db"],
        kept=kept,
    )
