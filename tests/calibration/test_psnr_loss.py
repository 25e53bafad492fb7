from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.calibration.psnr_loss import PsnrLoss
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures

INPUTS = [np.full((2, 3, 8, 8), 0.5, np.float32), np.full((1, 3, 4, 4), 0.5, np.float32)]


class Shifted:
    """Adds a constant to pictures."""

    name = "shifted"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def run(self, pictures: Pictures) -> Pictures:
        return (pictures + np.float32(self.amount)).astype(np.float32)

    def close(self) -> None:
        pass


def loss_of(truth_shift: float) -> PsnrLoss:
    truths = [batch + np.float32(truth_shift) for batch in INPUTS]
    return PsnrLoss(Shifted(0), INPUTS, truths)


def test_ten_times_the_error_is_twenty_decibels() -> None:
    assert loss_of(0.02).measured(Shifted(-0.18)) == pytest.approx(20, abs=0.02)


def test_what_comes_nearer_to_the_truth_gains() -> None:
    assert loss_of(0.1).measured(Shifted(0.05)) == pytest.approx(-6.02, abs=0.01)


def test_pictures_count_alike_whatever_their_error() -> None:
    truths = [INPUTS[0] + np.float32(0.2), INPUTS[1] + np.float32(0.02)]
    loss = PsnrLoss(Shifted(0), INPUTS, truths)
    large, small = 20 * np.log10(0.22 / 0.2), 20 * np.log10(0.04 / 0.02)
    assert loss.measured(Shifted(-0.02)) == pytest.approx((2 * large + small) / 3, abs=0.02)


def test_a_picture_that_was_perfect_does_not_outweigh_all_others() -> None:
    assert loss_of(0).measured(Shifted(1 / 255)) < 12


def test_values_beyond_white_are_clipped() -> None:
    truths = [np.ones_like(batch) for batch in INPUTS]
    assert PsnrLoss(Shifted(0.5), INPUTS, truths).measured(Shifted(5)) == 0


def test_the_expected_loss_adds_the_change_to_the_error() -> None:
    loss = loss_of(0.1)
    expected = 10 * np.log10(1 + 0.05**2 / 0.1**2)
    for change in (0.05, -0.05):  # towards the truth or away from it
        assert loss.expected(Shifted(change), 2) == pytest.approx(expected, abs=0.01)


def test_the_expected_loss_looks_at_the_first_batches_alone() -> None:
    truths = [INPUTS[0] + np.float32(0.2), INPUTS[1] + np.float32(0.01)]
    loss = PsnrLoss(Shifted(0), INPUTS, truths)
    assert loss.expected(Shifted(0.05), 1) < 0.5 < loss.expected(Shifted(0.05), 2)


def test_refuses_truths_of_another_size() -> None:
    with pytest.raises(SlsError, match="their truth is"):
        PsnrLoss(Shifted(0), INPUTS, [INPUTS[0]])


def test_refuses_no_pictures() -> None:
    with pytest.raises(SlsError, match="shifted"):
        PsnrLoss(Shifted(0), [], [])
