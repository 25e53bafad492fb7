"""Gates: how much a stage may lose before a run counts as failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sls_deploy.config import Precision, ValidateConfig
from sls_deploy.validate.measure import StageFigures

Metric = Literal["psnr_y", "psnr_rgb"]
BYTES_DB = 50.0
"""Most that is asked of the parity of a stage from bytes to bytes, in dB: rounding to 8 bits alone
leaves 10 log10(12 * 255^2) = 58.9 dB."""
DENSE, SPARSE = "dense PyTorch", "sparse PyTorch"


@dataclass(frozen=True)
class Gate:
    """One limit and what was measured against it."""

    stage: str
    """The stage judged."""
    rule: str
    """What is limited, such as 'loss to dense, dB'."""
    limit: float
    """The setting."""
    value: float | None
    """The figure measured; None where the outputs are equal."""
    passed: bool
    """Whether it stays within the limit."""
    culprit: str
    """The worst picture where the gate failed, else empty."""


def precision_of(stage: str) -> Precision:
    """The precision that stands in the name of a stage; fp32 where none does."""
    return next((known for known in get_args(Precision) if known in _words(stage)), "fp32")


def parity_limit(stage: str, options: ValidateConfig) -> float:
    """Least PSNR of a stage to PyTorch, in dB, by its precision and by whether it gives bytes."""
    limit = options.min_parity_db(precision_of(stage))
    return min(limit, BYTES_DB) if "uint8" in _words(stage) else limit


def headline(scale: int) -> Metric:
    """The figure that papers report: luma for super-resolution, all colours for deblurring."""
    return "psnr_y" if scale > 1 else "psnr_rgb"


def judge(
    stages: Sequence[StageFigures], options: ValidateConfig, metric: Metric = "psnr_y"
) -> tuple[Gate, ...]:
    """Hold every stage after the dense one against the limits.

    Args:
        stages: the dense PyTorch stage first; the sparse one is the reference of parity.
        options: the limits.
        metric: the figure whose loss is limited.
    """
    dense = stages[0]
    gates = []
    for stage in stages[1:]:
        loss = getattr(dense, metric) - getattr(stage, metric)
        passed = loss <= options.max_loss_db
        losses = {
            ours.name: getattr(theirs, metric) - getattr(ours, metric)
            for ours, theirs in zip(stage.pictures, dense.pictures, strict=True)
        }
        worst = "" if passed else max(losses, key=losses.__getitem__)
        gates.append(
            Gate(stage.name, "loss to dense, dB", options.max_loss_db, loss, passed, worst)
        )
        if stage.name == SPARSE:
            continue
        limit = parity_limit(stage.name, options)
        passed = stage.parity_db is None or stage.parity_db >= limit
        parities = {
            figure.name: figure.parity_db
            for figure in stage.pictures
            if figure.parity_db is not None
        }
        worst = "" if passed else min(parities, key=parities.__getitem__)
        gates.append(
            Gate(stage.name, "parity with PyTorch, dB", limit, stage.parity_db, passed, worst)
        )
    return tuple(gates)


def _words(stage: str) -> list[str]:
    return re.split(r"[ .-]", stage)
