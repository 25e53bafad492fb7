from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.adapt.tradeoff import (
    EXPONENT,
    Calibration,
    decibels,
    decide,
    trade_off,
    weight_for_cost,
    weight_for_loss,
)
from sls_deploy.errors import SlsError


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    """Tiles whose estimates are off by up to a factor of two, in whole steps so that ties occur."""
    candidates, tiles = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    levels = st.integers(1, 40)
    rows = st.lists(levels, min_size=candidates, max_size=candidates)
    true = np.array(draw(st.lists(rows, min_size=tiles, max_size=tiles))) * 1e-4
    wrong = st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=true.size, max_size=true.size)
    estimated = true * np.array(draw(wrong)).reshape(true.shape)
    costs = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=candidates, max_size=candidates)))
    shares = costs - costs[0] if draw(st.booleans()) else costs
    return Calibration(
        estimated, true, tuple((shares / 40).tolist()), draw(st.sampled_from([0.0, 0.01]))
    )


def judged(calibration: Calibration, weight: float) -> tuple[float, float]:
    """Mean cost and mean squared error at a weight, tile by tile."""
    cost = error = 0.0
    for estimated, true in zip(calibration.estimated, calibration.true, strict=True):
        chosen = min(
            range(len(calibration.costs)),
            key=lambda place: estimated[place] ** EXPONENT + weight * calibration.costs[place],
        )
        cost += calibration.costs[chosen] + calibration.estimator_cost
        error += true[chosen]
    return cost / len(calibration.true), error / len(calibration.true)


@given(calibrations())
def test_every_point_of_the_curve_is_what_its_weight_does(calibration: Calibration) -> None:
    curve = trade_off(calibration)
    for weight, cost, error in zip(curve.weights, curve.costs, curve.errors, strict=True):
        assert judged(calibration, weight) == pytest.approx((cost, error), rel=1e-9, abs=1e-12)


@given(calibrations(), st.floats(0, 1))
def test_the_curve_has_a_point_for_every_weight(calibration: Calibration, weight: float) -> None:
    curve = trade_off(calibration)
    wanted = judged(calibration, weight)
    points = np.stack([curve.costs, curve.errors], axis=1)
    assert np.isclose(points, wanted, rtol=1e-9, atol=1e-12).all(axis=1).any()


@given(calibrations())
def test_mean_cost_falls_as_the_weight_grows(calibration: Calibration) -> None:
    curve = trade_off(calibration)
    assert curve.weights[0] == 0
    assert (np.diff(curve.weights) > 0).all()
    assert (np.diff(curve.costs) < 0).all()
    assert curve.costs[-1] == pytest.approx(calibration.costs[0] + calibration.estimator_cost)


@given(calibrations(), st.floats(0, 1.1))
def test_the_weight_for_a_cost_is_the_least_that_meets_it(
    calibration: Calibration, target: float
) -> None:
    curve = trade_off(calibration)
    if target < curve.costs[-1]:
        with pytest.raises(SlsError, match=r"--target-cost: a mean cost of .* cannot be reached"):
            weight_for_cost(calibration, target)
        return
    found = weight_for_cost(calibration, target)
    assert found.cost <= target
    assert not ((curve.costs <= target) & (curve.weights < found.weight)).any()


@given(calibrations(), st.floats(-1, 3))
def test_the_weight_for_a_loss_is_the_cheapest_that_meets_it(
    calibration: Calibration, target: float
) -> None:
    curve = trade_off(calibration)
    best = decibels(float(calibration.true[:, -1].mean()))
    losses = np.array([best - decibels(float(error)) for error in curve.errors])
    if (losses > target + 1e-9).all():
        with pytest.raises(SlsError, match=r"--target-psnr-loss: a loss of .* cannot be reached"):
            weight_for_loss(calibration, target)
    elif (losses < target - 1e-9).any():
        found = weight_for_loss(calibration, target)
        assert found.loss_db <= target + 1e-9
        assert found.cost <= curve.costs[losses < target - 1e-9].min()


@given(calibrations())
def test_what_an_error_names_can_be_reached(calibration: Calibration) -> None:
    with pytest.raises(SlsError) as caught:
        weight_for_cost(calibration, -1)
    least = float(re.findall(r"Give (-?[\d.]+) or more", str(caught.value))[0])
    assert weight_for_cost(calibration, least).cost <= least
    with pytest.raises(SlsError) as caught:
        weight_for_loss(calibration, -1000)
    least = float(re.findall(r"Give (-?[\d.]+) or more", str(caught.value))[0])
    assert weight_for_loss(calibration, least).loss_db <= least + 1e-9


def test_of_equal_scores_the_cheapest_wins() -> None:
    estimated = np.array([[2.0, 2.0, 1.0], [4.0, 2.0, 1.0]])
    assert decide(estimated, (0.0, 0.5, 1.0), 0, 1).tolist() == [2, 2]
    assert decide(estimated, (0.0, 0.5, 1.0), 2, 1).tolist() == [0, 1]
    assert decide(estimated, (0.0, 0.5, 1.0), math.inf).tolist() == [0, 0]


def test_a_perfect_estimator_is_at_least_as_good_as_any_choice_of_equal_cost() -> None:
    random = np.random.default_rng(0)
    true = np.sort(random.lognormal(-7, 1, (200, 3)), axis=1)[:, ::-1]
    calibration = Calibration(true, true, (0.0, 0.25, 0.5), 0.0)
    for target in (0.1, 0.2, 0.3, 0.4):
        found = weight_for_cost(calibration, target)
        for _ in range(20):
            choice = random.permutation(
                np.repeat([0, 2], [200 - int(400 * found.cost), int(400 * found.cost)])
            )
            assert found.psnr >= decibels(float(true[np.arange(200), choice].mean()))


def test_one_candidate_leaves_nothing_to_choose() -> None:
    one = np.array([[1e-3], [2e-3]])
    found = weight_for_cost(Calibration(one, one, (0.5,), 0.01), 0.51)
    assert (found.cost, found.loss_db) == (0.51, 0.0)
