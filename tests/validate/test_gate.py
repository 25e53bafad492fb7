from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sls_deploy.config import ValidateConfig
from sls_deploy.validate.figures import DENSE, SPARSE, Gate, StageFigures
from sls_deploy.validate.gate import judge, parity_limit
from sls_deploy.validate.losses import total_losses
from tests.validate.flows import IDS, renamed, stage

LIMITS = ValidateConfig(
    max_loss_db=0.5, max_picture_loss_db=2, min_parity_fp32_db=80, min_parity_fp16_db=50
)


def judged(flow: Sequence[StageFigures], options: ValidateConfig = LIMITS) -> tuple[Gate, ...]:
    return judge(flow, total_losses(flow, "psnr_y"), options)


def test_each_stage_after_the_first_is_held_against_every_limit() -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp16", [30], [60])]
    assert [(gate.stage, gate.rule, gate.setting) for gate in judged(flow)] == [
        (SPARSE, "loss", "validate.max_loss_db"),
        (SPARSE, "worst picture", "validate.max_picture_loss_db"),
        ("ONNX fp16", "loss", "validate.max_loss_db"),
        ("ONNX fp16", "worst picture", "validate.max_picture_loss_db"),
        ("ONNX fp16", "fidelity", "validate.min_parity_fp16_db"),
    ]


def test_loss_up_to_the_limit_passes() -> None:
    gate, _ = judged([stage(DENSE, [30, 32]), stage(SPARSE, [29.5, 31.5])])
    assert (gate.stage, gate.limit, gate.value, gate.passed) == (SPARSE, 0.5, 0.5, True)
    assert gate.culprit is None


def test_loss_above_the_limit_fails_and_names_the_picture_that_lost_most() -> None:
    gate, worst = judged([stage(DENSE, [30, 32, 31]), stage(SPARSE, [29.5, 30, 31])])
    assert gate.value == pytest.approx(2.5 / 3)
    assert (gate.passed, gate.picture) == (False, "b")
    assert (worst.passed, worst.value) == (True, 2)


def test_one_bad_picture_fails_though_the_mean_passes() -> None:
    gate, worst = judged([stage(DENSE, [30] * 8), stage(SPARSE, [30] * 7 + [27.5])])
    assert gate.passed
    assert (worst.rule, worst.limit, worst.value) == ("worst picture", 2, 2.5)
    assert (worst.passed, worst.picture) == (False, "h")


def test_gain_passes_even_at_no_loss() -> None:
    limits = ValidateConfig(max_loss_db=0, max_picture_loss_db=0)
    gate, worst = judged([stage(DENSE, [30]), stage(SPARSE, [31])], limits)
    assert (gate.passed, gate.value, worst.passed) == (True, -1, True)


@pytest.mark.parametrize(
    ("name", "changes", "fidelity", "limit", "passed"),
    [
        ("ONNX fp32", {}, 80.0, 80, True),
        ("ONNX fp32", {}, 79.9, 80, False),
        ("ONNX fp16", {}, 50.0, 50, True),
        ("ONNX fp16", {}, 49.9, 50, False),
        ("TensorRT fp16", {}, 60.0, 50, True),
        ("TensorRT fp16", {"precision": "fp32"}, 60.0, 80, False),
        ("TensorRT fp16", {"precision": "fp32", "in_bytes": True}, 58.9, 50, True),
        ("TensorRT fp16", {"precision": "fp32", "in_bytes": True}, 49.9, 50, False),
        ("TensorRT fp16", {"precision": "bf16", "in_bytes": True}, 35.1, 35, True),
    ],
)
def test_the_limit_of_fidelity_is_that_of_the_precision(
    name: str, changes: dict[str, object], fidelity: float, limit: float, passed: bool
) -> None:
    about = renamed(name, "it", **changes)
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage(about, [30], [None], [fidelity])]
    *_, gate = judged(flow)
    assert (gate.rule, gate.setting) == ("fidelity", f"validate.min_parity_{about.precision}_db")
    assert (gate.limit, gate.value, gate.passed, gate.picture) == (limit, fidelity, passed, "a")


def test_rounding_to_bytes_is_within_the_limit_of_bytes() -> None:
    values = np.random.default_rng(0).random(100_000)
    square = np.mean((np.round(values * 255) / 255 - values) ** 2)
    assert -10 * np.log10(square) == pytest.approx(58.9, abs=0.05)
    in_bytes = renamed("ONNX fp32", "bytes", in_bytes=True)
    assert parity_limit(in_bytes, LIMITS) < 58.9 < parity_limit(IDS["ONNX fp32"], LIMITS)


def test_equal_outputs_pass_without_a_value() -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30])]
    loss, *_, fidelity = judged(flow)
    assert (fidelity.value, fidelity.passed, fidelity.picture) == (None, True, "")
    assert (loss.value, loss.picture) == (0, "")


@pytest.mark.parametrize("worst", [20.0, 0.0, -3.0])
def test_fidelity_that_is_too_low_names_the_worst_picture(worst: float) -> None:
    onnx = stage("ONNX fp32", [30, 30, 30], [None, 90.0, worst])
    *_, gate = judged([stage(DENSE, [30] * 3), stage(SPARSE, [30] * 3), onnx])
    assert (gate.passed, gate.value, gate.picture) == (False, worst, "c")


def test_the_sparse_network_is_held_to_the_dense_one_where_that_is_wanted() -> None:
    flow = [stage(DENSE, [30, 30]), stage(SPARSE, [30, 30], [41.0, 38.0])]
    assert {gate.rule for gate in judged(flow)} == {"loss", "worst picture"}
    limits = ValidateConfig(min_parity_sparse_db=40)
    *_, gate = judged(flow, limits)
    assert (gate.rule, gate.setting) == ("fidelity to dense", "validate.min_parity_sparse_db")
    assert (gate.limit, gate.value, gate.passed, gate.picture) == (40, 38, False, "b")


def test_without_truth_fidelity_is_judged_all_the_same() -> None:
    flow = [
        stage(DENSE, None, [None]),
        stage(SPARSE, None, [30.0]),
        stage("ONNX fp32", None, [60.0]),
    ]
    gates = judged(flow, ValidateConfig(min_parity_sparse_db=25))
    assert [(gate.rule, gate.passed) for gate in gates] == [
        ("fidelity to dense", True), ("fidelity", False),
    ]  # fmt: skip


def test_what_is_not_a_number_passes_no_gate() -> None:
    flow = [
        stage(DENSE, [30, 30, 30]),
        stage(SPARSE, [30, math.nan, 30]),
        stage("ONNX fp32", [30, 30, math.nan], [90, math.nan, 90]),
    ]
    gates = judged(flow)
    assert [gate.passed for gate in gates] == [False] * 5
    assert [gate.picture for gate in gates] == ["b", "b", "c", "c", "b"]


def test_a_limit_that_is_not_a_number_lets_nothing_pass() -> None:
    limits = LIMITS.model_copy(update={"max_loss_db": math.nan, "min_parity_fp32_db": math.nan})
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30], [90])]
    failed = [(gate.stage, gate.rule) for gate in judged(flow, limits) if not gate.passed]
    assert failed == [(SPARSE, "loss"), ("ONNX fp32", "loss"), ("ONNX fp32", "fidelity")]
