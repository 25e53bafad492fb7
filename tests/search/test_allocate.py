from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.search import allocate as room
from sls_deploy.search.allocate import Option, allocate, undominated

Parts = list[list[Option[int]]]
NUMBERS = st.one_of(st.integers(0, 8).map(lambda n: n / 8), st.floats(0, 1, allow_subnormal=False))


@st.composite
def networks(draw: st.DrawFn) -> Parts:
    """Up to five parts with up to four options each."""
    options = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4)
    return [
        [Option(number, *pair) for number, pair in enumerate(pairs)]
        for pairs in draw(st.lists(options, min_size=1, max_size=5))
    ]


def cost(options: list[Option[int]]) -> float:
    return sum(option.cost for option in options)


def loss(options: list[Option[int]]) -> float:
    return sum(option.loss for option in options)


@given(parts=networks(), budget=st.floats(0, 3))
def test_no_other_choice_within_the_budget_loses_less(parts: Parts, budget: float) -> None:
    chosen = allocate(parts, budget)
    losses = [loss(list(c)) for c in product(*parts) if cost(list(c)) <= budget]
    if chosen is not None:
        assert loss(chosen) <= min(losses, default=math.inf) + 1e-12
    else:
        assert not losses


@given(parts=networks(), budget=st.floats(0, 3))
def test_one_option_of_each_part_within_the_budget(parts: Parts, budget: float) -> None:
    chosen = allocate(parts, budget)
    if chosen is None:
        assert cost([min(options, key=lambda option: option.cost) for options in parts]) > budget
    else:
        assert all(option in part for option, part in zip(chosen, parts, strict=True))
        assert cost(chosen) <= budget + 2e-9


@given(parts=networks())
def test_budget_of_the_cheapest_choice_is_reached(parts: Parts) -> None:
    assert allocate(parts, cost([min(part, key=lambda option: option.cost) for part in parts]))


def test_budget_that_fits_without_rest_is_used_whole() -> None:
    # Thirteenths are no decimal fractions: a grid of costs would miss the half.
    sizes = [1] * 9 + [4]
    parts = [
        [Option(n, size * n / 4 / 13, loss) for n, loss in ((1, 9.0), (2, 1.0), (4, 0.0))]
        for size in sizes
    ]
    chosen = allocate(parts, 0.5)
    assert chosen is not None
    assert [option.what for option in chosen] == [2] * 10


def test_part_without_options_cannot_be_chosen() -> None:
    assert allocate([[Option(0, 0.1, 0.0)], []], 1) is None


@given(parts=networks(), budget=st.floats(0, 3))
def test_with_few_partial_choices_held_the_budget_still_holds(parts: Parts, budget: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_MOST", 3)
        thinned = allocate(parts, budget)
    exact = allocate(parts, budget)
    assert (thinned is None) == (exact is None)
    if thinned and exact:
        assert cost(thinned) <= budget + 2e-9
        assert loss(thinned) >= loss(exact) - 1e-12


def test_thinned_choice_loses_little_more() -> None:
    parts = [
        [Option(n, size * n / 16, size**2 * (16 - n) ** 2) for n in range(1, 17)]
        for size in (1 + 0.37 * math.sin(index) for index in range(12))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_MOST", 100)
        thinned = allocate(parts, 6)
    exact = allocate(parts, 6)
    assert thinned is not None
    assert exact is not None
    assert loss(thinned) < 1.05 * loss(exact)


@given(parts=networks())
def test_undominated_options_fall_in_cost_and_rise_in_loss(parts: Parts) -> None:
    for options in parts:
        left = undominated(options)
        costs, losses = [item.cost for item in left], [item.loss for item in left]
        assert costs == sorted(set(costs), reverse=True)
        assert losses == sorted(set(losses))


@given(parts=networks())
def test_every_option_is_matched_by_an_undominated_one(parts: Parts) -> None:
    for options in parts:
        left = undominated(options)
        assert all(
            any(item.cost <= option.cost and item.loss <= option.loss for item in left)
            for option in options
        )
