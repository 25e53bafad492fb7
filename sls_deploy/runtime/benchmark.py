"""From single times to what is reported of them, and how several networks are timed fairly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Stopwatch

_UNSTABLE = 1.5
"""Ratio of the 90th percentile to the median above which times are called unstable."""
_BLOCK = 5
"""Runs that count before the next network has its turn."""


@dataclass(frozen=True)
class Timing:
    """Times of one network on one input."""

    p50: float
    """Median, ms."""
    p90: float
    """90th percentile, ms."""
    p99: float
    """99th percentile, ms; of fewer than 100 runs it lies between the two longest."""
    mean: float
    """Mean, ms."""
    least: float
    """Shortest, ms."""
    runs: int
    """Runs that count."""

    @property
    def unstable(self) -> bool:
        """Whether something else used the machine, or its clocks moved."""
        return self.p90 > _UNSTABLE * self.p50

    def rate(self, amount: float) -> float:
        """Throughput for an amount of work in one run: that amount a second, by the median."""
        return amount / self.p50 * 1e3


def summarise(times: Sequence[float]) -> Timing:
    """Percentiles of times, interpolated linearly between the two next ones.

    Args:
        times: milliseconds of single runs, above 0.

    Raises:
        SlsError: there are none.
    """
    if not times:
        raise SlsError("there are no times to summarise", "benchmark", "Repeat at least once.")
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return Timing(p50, p90, p99, float(np.mean(times)), float(min(times)), len(times))


def benchmark(stopwatch: Stopwatch, warm_up: int, repeats: int) -> Timing:
    """Time one network.

    Args:
        stopwatch: of a runner.
        warm_up: runs before those that count.
        repeats: runs that count.

    Raises:
        SlsError: the network failed, or `repeats` is below 1.
    """
    for _ in range(warm_up):
        stopwatch()
    return summarise([stopwatch() for _ in range(repeats)])


def interleaved(
    stopwatches: Sequence[Stopwatch],
    warm_up: int,
    repeats: int,
    done: Callable[[int], None] = lambda _: None,
) -> tuple[Timing, ...]:
    """Time several networks in turn, so that a drift of the machine's speed hits all alike.

    They take turns in blocks of a few runs. The first run of each block does not count: it meets
    what another network left in the caches.

    Args:
        stopwatches: of the runners.
        warm_up: runs of each before those that count.
        repeats: runs of each that count.
        done: receives the number of runs that count, of each, that are done.

    Raises:
        SlsError: a network failed, or `repeats` is below 1.
    """
    times: list[list[float]] = [[] for _ in stopwatches]
    for stopwatch in stopwatches:
        for _ in range(warm_up):
            stopwatch()
    for start in range(0, repeats, _BLOCK):
        block = min(_BLOCK, repeats - start)
        for stopwatch, found in zip(stopwatches, times, strict=True):
            stopwatch()
            found.extend(stopwatch() for _ in range(block))
        done(start + block)
    return tuple(summarise(found) for found in times)
