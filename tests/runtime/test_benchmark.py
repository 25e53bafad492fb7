from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.errors import SlsError
from sls_deploy.runtime.benchmark import Timing, benchmark, interleaved, summarise

TIMES = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=200)


def by_hand(times: list[float], percent: int) -> float:
    """A percentile between the two sorted times that it falls between."""
    ordered = sorted(times)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@given(TIMES)
def test_percentiles_are_interpolated(times: list[float]) -> None:
    timing = summarise(times)
    assert timing.p50 == pytest.approx(by_hand(times, 50))
    assert timing.p90 == pytest.approx(by_hand(times, 90))
    assert timing.p99 == pytest.approx(by_hand(times, 99))
    assert timing.mean == pytest.approx(sum(times) / len(times))


@given(TIMES)
def test_figures_are_in_order(times: list[float]) -> None:
    timing = summarise(times)
    assert timing.least <= timing.p50 <= timing.p90 <= timing.p99 <= max(times)
    assert (timing.least, timing.runs) == (min(times), len(times))


@given(TIMES, st.randoms())
def test_the_order_of_times_does_not_matter(times: list[float], random: object) -> None:
    shuffled = list(times)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = summarise(times), summarise(shuffled)
    assert (first.p50, first.p99) == (second.p50, second.p99)


@given(TIMES, st.floats(0.1, 10))
def test_a_slower_machine_scales_everything(times: list[float], factor: float) -> None:
    slower = summarise([time * factor for time in times])
    timing = summarise(times)
    assert slower.p90 == pytest.approx(timing.p90 * factor)
    assert slower.rate(3) == pytest.approx(timing.rate(3) / factor)


def test_throughput_is_by_the_median() -> None:
    assert summarise([10.0, 20.0, 1000.0]).rate(4) == pytest.approx(200)


@pytest.mark.parametrize(
    ("times", "unstable"),
    [([1.0] * 10, False), ([1.0] * 8 + [4.0] * 2, True), ([1.0] * 19 + [50.0], False)],
)
def test_times_are_unstable_if_one_in_ten_is_long(times: list[float], unstable: bool) -> None:
    assert summarise(times).unstable == unstable


def test_no_times_are_an_error() -> None:
    with pytest.raises(SlsError, match="no times"):
        benchmark(lambda: 1.0, warm_up=3, repeats=0)


def counting(calls: list[str], name: str, first: float = 0.0) -> Callable[[], float]:
    """A stopwatch that writes down its name; each run takes 1 ms longer than the one before."""
    times = iter(range(1000))

    def run() -> float:
        calls.append(name)
        return first + next(times)

    return run


def test_warm_up_runs_do_not_count() -> None:
    timing = benchmark(counting([], "a"), warm_up=5, repeats=3)
    assert (timing.least, timing.mean, timing.runs) == (5.0, 6.0, 3)


def test_networks_take_turns_in_blocks_whose_first_run_does_not_count() -> None:
    calls: list[str] = []
    told: list[int] = []
    stopwatches = [counting(calls, "a"), counting(calls, "b", first=100.0)]
    timings = interleaved(stopwatches, warm_up=1, repeats=7, done=told.append)
    assert "".join(calls) == "ab" + "a" * 6 + "b" * 6 + "a" * 3 + "b" * 3
    assert [timing.runs for timing in timings] == [7, 7]
    # 0 is the warm-up, 1 and 7 are the first of their blocks.
    assert timings[0] == summarise([2.0, 3, 4, 5, 6, 8, 9])
    assert timings[1].least == 102.0
    assert told == [5, 7]


def test_drift_hits_all_alike() -> None:
    clock = iter(range(10**6))

    def drifting() -> float:
        return 1.0 + 0.001 * next(clock)

    first, second = interleaved([drifting, drifting], warm_up=2, repeats=100)
    apart = benchmark(drifting, 2, 100), benchmark(drifting, 2, 100)
    assert abs(second.p50 / first.p50 - 1) < 0.01 < apart[1].p50 / apart[0].p50 - 1


def test_a_timing_is_comparable() -> None:
    assert summarise([2.0, 2.0]) == Timing(2.0, 2.0, 2.0, 2.0, 2.0, 2)
