from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.config import SearchConfig
from sls_deploy.search import schedule
from sls_deploy.search.schedule import Plan, rate, steps_within


@given(st.integers(1, 5000))
def test_rate_warms_up_to_one_and_ends_near_nothing(steps: int) -> None:
    rates = [rate(step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert steps < 100 or rates[-1] < 0.02


@given(st.integers(1, 400_000))
def test_plan_fits_its_steps(steps: int) -> None:
    plan = Plan.of(SearchConfig(), steps)
    assert 1 <= plan.epoch <= max(1, plan.window)
    assert plan.window <= plan.steps == steps
    assert plan.epoch <= 1000


def test_steps_fill_nine_tenths_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: clock[0])

    def work(seconds: float) -> None:
        clock[0] += seconds

    config = SearchConfig(search_share=0.5)
    steps = steps_within(config, 1, lambda: work(0.5), lambda: work(0.1))
    assert steps == (0.9 * 60 - 0.1 * 40) / 0.5
