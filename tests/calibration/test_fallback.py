from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.fallback import Fallback, fall_back
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress

LOSSES = {"a": 0.01, "b": 0.5, "c": 0.02, "d": 0.2, "e": 0.03}


class Additive:
    """Losses that add up, and the choices that were measured."""

    def __init__(self, losses: Mapping[str, float], base: float = 0.0) -> None:
        self.losses, self.base = losses, base
        self.asked: list[frozenset[str]] = []

    def __call__(self, lowered: frozenset[str]) -> float:
        self.asked.append(lowered)
        return self.base + math.fsum(self.losses[layer] for layer in lowered)


def run(losses: Mapping[str, float], limit: float, base: float = 0.0) -> tuple[Fallback, Additive]:
    loss = Additive(losses, base)
    return fall_back(list(losses), loss, limit), loss


def test_keeps_the_worst_first() -> None:
    found, _ = run(LOSSES, 0.05)
    assert found.kept == ("b", "d", "e")
    assert found.loss_db == pytest.approx(0.03)
    assert found.loss_all_db == pytest.approx(0.76)
    assert found.single_db == LOSSES


def test_measures_once_where_all_may_be_lowered() -> None:
    found, loss = run(LOSSES, 0.76)
    assert found == Fallback((), loss(frozenset(LOSSES)), loss(frozenset(LOSSES)), {})
    assert loss.asked[0] == frozenset(LOSSES)
    assert len(loss.asked) == 3  # two of them are this test's


def test_keeps_all_where_the_higher_precision_loses_too_much_itself() -> None:
    found, _ = run(LOSSES, 0.05, base=0.1)
    assert found.kept == ("b", "d", "e", "c", "a")
    assert found.loss_db == 0.1


def test_a_single_layer_is_measured_once() -> None:
    found, loss = run({"a": 1.0}, 0.5)
    assert found.kept == ("a",)
    assert loss.asked == [frozenset("a"), frozenset()]


def test_no_layers_lose_what_the_higher_precision_does() -> None:
    found, _ = run({}, 0.5, base=0.75)
    assert found == Fallback((), 0.75, 0.75, {})


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1), max_size=12),
    st.floats(0, 2),
)
def test_keeps_the_fewest_of_the_worst(losses: dict[str, float], limit: float) -> None:
    found, loss = run(losses, limit)
    lowered = frozenset(losses) - frozenset(found.kept)
    assert lowered in loss.asked
    assert found.loss_db == loss(lowered) <= limit
    if found.kept:
        assert loss(lowered | {found.kept[-1]}) > limit
        assert min(losses[layer] for layer in found.kept) >= max(
            (losses[layer] for layer in lowered), default=0
        )


@given(st.data())
def test_what_is_returned_was_measured_whatever_the_losses_are(data: st.DataObject) -> None:
    layers = [f"layer{index}" for index in range(data.draw(st.integers(0, 9)))]
    measured: dict[frozenset[str], float] = {}

    def loss(lowered: frozenset[str]) -> float:
        assert lowered not in measured
        measured[lowered] = data.draw(st.floats(-1, 1))
        return measured[lowered]

    found = fall_back(layers, loss, 0.25)
    assert measured[frozenset(layers) - frozenset(found.kept)] == found.loss_db
    assert found.loss_db <= 0.25 or set(found.kept) == set(layers)


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 1), max_size=9),
    st.floats(0, 2),
    st.randoms(use_true_random=False),
)
def test_ranking_decides_nothing_but_the_order(
    losses: dict[str, float], limit: float, chance: Random
) -> None:
    ranks = {layer: chance.random() for layer in losses}
    loss = Additive(losses)
    found = fall_back(list(losses), loss, limit, alone=ranks.__getitem__)
    lowered = frozenset(losses) - frozenset(found.kept)
    assert lowered in loss.asked
    assert found.loss_db == loss(lowered) <= limit
    if found.kept:
        assert found.single_db == ranks
        assert (
            list(found.kept) == sorted(losses, key=lambda layer: -ranks[layer])[: len(found.kept)]
        )
        assert loss(lowered | {found.kept[-1]}) > limit


def test_the_last_layer_left_is_measured_as_a_choice() -> None:
    loss = Additive({"a": 0.3, "b": 0.2})
    found = fall_back(["a", "b"], loss, 0.25, alone={"a": 9.0, "b": 8.0}.__getitem__)
    assert found == Fallback(("a",), 0.2, 0.5, {"a": 9.0, "b": 8.0})
    assert frozenset("b") in loss.asked


def test_bisects() -> None:
    losses = {f"layer{index}": 1 / (index + 1) for index in range(64)}
    _, loss = run(losses, 0.5)
    assert len(loss.asked) == 1 + 64 + 1 + 6


def test_refuses_a_rank_that_is_not_finite() -> None:
    with pytest.raises(SlsError, match="a: lose nan dB"):
        fall_back("ab", lambda lowered: float(len(lowered)), 0.5, alone=lambda layer: math.nan)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_a_loss_that_is_not_finite(bad: float) -> None:
    with pytest.raises(SlsError, match=r"b: lose .* dB in the lower precision"):
        fall_back("ab", lambda lowered: bad if lowered == {"b"} else float(len(lowered)), 0.5)


@pytest.mark.parametrize("ranked", [True, False])
def test_reports_before_every_measurement(ranked: bool) -> None:
    reports: list[Progress] = []
    loss = Additive(LOSSES)
    alone = LOSSES.__getitem__ if ranked else None
    fall_back(list(LOSSES), loss, 0.05, reports.append, "int8", alone=alone)
    measurements = len(loss.asked) + (len(LOSSES) if ranked else 0)
    assert [report.done for report in reports] == list(range(measurements))
    assert {report.task for report in reports} == {"int8"}
    assert all(report.done < report.total for report in reports)
