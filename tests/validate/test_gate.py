from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.config import ValidateConfig
from sls_deploy.validate.gate import DENSE, SPARSE, headline, judge, parity_limit
from sls_deploy.validate.measure import PictureFigures, StageFigures

LIMITS = ValidateConfig(max_loss_db=0.5, min_parity_fp32_db=80, min_parity_fp16_db=50)


def stage(name: str, psnr: list[float], parity: list[float | None] | None = None) -> StageFigures:
    """A stage with those figures on pictures a, b, ..."""
    parity = parity or [None] * len(psnr)
    rows = zip("abc", psnr, parity, strict=False)
    figures = [PictureFigures(n, y, y - 9, 0.9, p, 0.0, 0.1) for n, y, p in rows]
    return StageFigures.of(name, figures)


def test_loss_up_to_the_limit_passes() -> None:
    (gate,) = judge([stage(DENSE, [30, 32]), stage(SPARSE, [29.5, 31.5])], LIMITS)
    assert (gate.stage, gate.limit, gate.value) == (SPARSE, 0.5, 0.5)
    assert (gate.passed, gate.culprit) == (True, "")


def test_headline_of_deblurring_is_over_all_colours() -> None:
    assert (headline(1), headline(4)) == ("psnr_rgb", "psnr_y")
    (gate,) = judge([stage(DENSE, [30]), stage(SPARSE, [29.5])], LIMITS, "psnr_rgb")
    assert gate.value == 0.5


def test_loss_above_the_limit_names_the_picture_that_lost_most() -> None:
    (gate,) = judge([stage(DENSE, [30, 32, 31]), stage(SPARSE, [29.5, 30, 31])], LIMITS)
    assert gate.value == pytest.approx(2.5 / 3)
    assert (gate.passed, gate.culprit) == (False, "b")


def test_gain_passes_even_at_no_loss() -> None:
    limits = ValidateConfig(max_loss_db=0)
    (gate,) = judge([stage(DENSE, [30]), stage(SPARSE, [31])], limits)
    assert (gate.passed, gate.value) == (True, -1)


@pytest.mark.parametrize(
    ("name", "parity", "limit", "passed"),
    [
        ("ONNX fp32", 80.0, 80, True),
        ("ONNX fp32", 79.9, 80, False),
        ("ONNX fp16", 50.0, 50, True),
        ("ONNX fp16", 49.9, 50, False),
        ("TensorRT sm86-fp16", 60.0, 50, True),
        ("TensorRT sm86-fp32", 60.0, 80, False),
        ("TensorRT sm86-fp32-uint8", 58.9, 50, True),
        ("TensorRT sm86-fp32-uint8", 49.9, 50, False),
        ("TensorRT sm86-bf16-uint8", 35.1, 35, True),
    ],
)
def test_parity_limit_is_that_of_the_precision(
    name: str, parity: float, limit: float, passed: bool
) -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage(name, [30], [parity])]
    *_, gate = judge(flow, LIMITS)
    assert gate.rule == "parity with PyTorch, dB"
    assert (gate.stage, gate.limit, gate.value, gate.passed) == (name, limit, parity, passed)
    assert gate.culprit == ("" if passed else "a")


def test_rounding_to_bytes_is_within_the_limit_of_bytes() -> None:
    values = np.random.default_rng(0).random(100_000)
    square = np.mean((np.round(values * 255) / 255 - values) ** 2)
    assert -10 * np.log10(square) == pytest.approx(58.9, abs=0.05)
    assert parity_limit("TensorRT sm86-fp32-uint8", LIMITS) < 58.9


def test_equal_outputs_pass_without_a_value() -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30])]
    *_, gate = judge(flow, LIMITS)
    assert (gate.value, gate.passed) == (None, True)


@pytest.mark.parametrize("worst", [20.0, 0.0, -3.0])
def test_parity_that_is_too_low_names_the_worst_picture(worst: float) -> None:
    onnx = stage("ONNX fp32", [30, 30, 30], [None, 60.0, worst])
    *_, gate = judge([stage(DENSE, [30] * 3), stage(SPARSE, [30] * 3), onnx], LIMITS)
    assert (gate.passed, gate.value, gate.culprit) == (False, worst, "c")


def test_sparse_network_is_the_reference_and_has_no_parity_gate() -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30])]
    gates = [(gate.stage, gate.rule.split()[0]) for gate in judge(flow, LIMITS)]
    assert gates == [(SPARSE, "loss"), ("ONNX fp32", "loss"), ("ONNX fp32", "parity")]
