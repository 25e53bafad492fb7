"""Gates: how much a stage may lose before a run counts as failed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sls_deploy.config import ValidateConfig
from sls_deploy.validate.figures import Fidelity, Gate, Loss, Rule, StageFigures, StageId

BYTES_DB = 50.0
"""Most that is asked of the fidelity of a stage from bytes to bytes, in dB: rounding to 8 bits
alone leaves 10 log10(12 * 255^2) = 58.9 dB."""


def judge(
    stages: Sequence[StageFigures], totals: Sequence[Loss], options: ValidateConfig
) -> tuple[Gate, ...]:
    """Hold every stage after the first one against the limits.

    A figure that is not a number stays within none.

    Args:
        stages: dense PyTorch first.
        totals: what they lost against it; none where there is no truth, and then none is judged.
        options: the limits.

    Returns:
        Gates in the order of the stages, without culprits.
    """
    lost = {loss.stage: loss for loss in totals}
    gates: list[Gate] = []
    for stage in stages[1:]:
        if stage.name in lost:
            gates += _loss_gates(lost[stage.name], options)
        if stage.stage.reference:
            setting = f"min_parity_{stage.stage.precision}_db"
            limit = parity_limit(stage.stage, options)
            pairs = [(item.name, item.to_reference) for item in stage.pictures]
            gates.append(_fidelity_gate(stage.name, "fidelity", setting, limit, pairs))
        elif options.min_parity_sparse_db is not None:
            limit = options.min_parity_sparse_db
            pairs = [(item.name, item.to_previous) for item in stage.pictures]
            gates.append(
                _fidelity_gate(
                    stage.name, "fidelity to dense", "min_parity_sparse_db", limit, pairs
                )
            )
    return tuple(gates)


def parity_limit(stage: StageId, options: ValidateConfig) -> float:
    """Least PSNR of a stage to its PyTorch network, in dB, by precision and by bytes."""
    limit = options.min_parity_db(stage.precision)
    return min(limit, BYTES_DB) if stage.in_bytes else limit


def _loss_gates(loss: Loss, options: ValidateConfig) -> list[Gate]:
    """Of the mean, and of the picture that lost most."""
    equal = loss.mean_db == loss.worst_db == 0
    limits: tuple[tuple[Rule, str, float, float], ...] = (
        ("loss", "max_loss_db", options.max_loss_db, loss.mean_db),
        ("worst picture", "max_picture_loss_db", options.max_picture_loss_db, loss.worst_db),
    )
    return [
        Gate(
            stage=loss.stage,
            rule=rule,
            setting=f"validate.{setting}",
            limit=limit,
            value=value,
            passed=value <= limit,
            picture="" if equal else loss.worst_picture,
            culprit=None,
        )
        for rule, setting, limit, value in limits
    ]


def _fidelity_gate(
    stage: str,
    rule: Rule,
    setting: str,
    limit: float,
    pairs: Sequence[tuple[str, Fidelity | None]],
) -> Gate:
    """Of the picture that lies farthest away."""
    found: dict[str, float] = {}
    for name, fidelity in pairs:
        assert fidelity is not None  # noqa: S101 - every stage after the first is compared
        if fidelity.psnr_db is not None:
            found[name] = fidelity.psnr_db
    worst = min(found, key=lambda name: _or_lowest(found[name]), default="")
    value = found.get(worst)
    return Gate(
        stage=stage,
        rule=rule,
        setting=f"validate.{setting}",
        limit=limit,
        value=value,
        passed=value is None or value >= limit,
        picture=worst,
        culprit=None,
    )


def _or_lowest(figure: float) -> float:
    """A figure, or less than any if it is not a number."""
    return -math.inf if math.isnan(figure) else figure
