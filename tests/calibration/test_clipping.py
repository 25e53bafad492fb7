from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.clipping import LEVELS, RangeMethod, choose_range
from sls_deploy.calibration.histograms import Histogram, SpreadCounter

METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)


def histogram(values: np.ndarray) -> Histogram:
    counter = SpreadCounter(-1)
    counter.add(values.astype(np.float32))
    return counter.spread().histogram


def laplace(size: int = 100_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=size)


def error(values: np.ndarray, bound: float) -> float:
    """Mean squared error of int8 with that range."""
    step = bound / LEVELS
    return float(np.mean((np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values) ** 2))


@given(st.sampled_from(METHODS), st.floats(1e-3, 1e4), st.integers(1, 400), st.integers(0, 9))
def test_a_range_is_above_zero_and_holds_no_more_than_the_largest(
    method: RangeMethod, size: float, count: int, seed: int
) -> None:
    found = histogram(size * laplace(count, seed))
    assert 0 < choose_range(found, method) <= found.largest


@pytest.mark.parametrize("method", METHODS)
def test_all_zeros_have_some_range(method: RangeMethod) -> None:
    assert choose_range(histogram(np.zeros(10)), method) == 1


@given(st.sampled_from(METHODS), st.integers(-8, 8))
def test_a_range_grows_with_the_values(method: RangeMethod, exponent: int) -> None:
    values = laplace(1000)
    plain, scaled = (histogram(values * factor) for factor in (1, 2.0**exponent))
    assert choose_range(scaled, method) == pytest.approx(
        choose_range(plain, method) * 2.0**exponent, rel=1e-6
    )


def test_min_max_takes_the_largest() -> None:
    assert choose_range(histogram(np.array([1.0, -5.0, 3.0])), "min-max") == 5


def test_percentile_leaves_out_one_in_ten_thousand() -> None:
    values = np.abs(laplace(1_000_000))
    found = choose_range(histogram(values), "percentile")
    assert np.mean(values > found) == pytest.approx(1e-4, rel=0.1)


def test_percentile_counts_zeros() -> None:
    values = np.abs(laplace(100_000))
    fewer = choose_range(histogram(np.concatenate([values, np.zeros(900_000)])), "percentile")
    assert np.mean(values > fewer) == pytest.approx(1e-3, rel=0.1)


def test_mse_errs_less_than_every_other_range() -> None:
    values = np.concatenate([laplace(), [60.0, -80.0]])
    found = error(values, choose_range(histogram(values), "mse"))
    ranges = np.linspace(1, 80, 200)
    assert found <= 1.01 * min(error(values, bound) for bound in ranges)
    assert found < 0.7 * error(values, 80)


def test_entropy_ignores_a_lonely_outlier_and_keeps_a_uniform_range() -> None:
    spread = np.random.default_rng(0).uniform(-1, 1, 500_000)
    assert choose_range(histogram(spread), "entropy") > 0.9
    assert choose_range(histogram(np.append(spread, 20.0)), "entropy") < 2
