"""Lengths and learning rates of a training."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from sls_deploy.config import SearchConfig

_EPOCHS_IN_WINDOW = 20
_LONGEST_EPOCH = 1000
_WARM_UP = 0.05
_LAST_RATE = 0.01
_TIMED_STEPS = 8
ENDLESS = 10**6
"""Steps of a plan that is only timed: it never comes to its end."""
_FILLED = 0.9


@dataclass(frozen=True)
class Plan:
    """Lengths of one budget's search, in steps."""

    steps: int
    """Steps in all."""
    window: int
    """Steps in which the budget is to be reached; the rest is fine-tuning."""
    epoch: int
    """Steps between two rankings (the paper: 1000)."""

    @classmethod
    def of(cls, config: SearchConfig, steps: int) -> Plan:
        """Share out the steps of a budget."""
        window = max(1, round(steps * config.search_share))
        return cls(steps, window, min(_LONGEST_EPOCH, max(1, window // _EPOCHS_IN_WINDOW)))


def rate(step: int, steps: int) -> float:
    """Factor of the learning rate at a step: linear warm-up, then cosine down to a hundredth."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    half_turn = math.pi * (step - warm) / max(1, steps - warm)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(half_turn)) / 2


def steps_within(
    config: SearchConfig, minutes: float, step: Callable[[], object], epoch: Callable[[], object]
) -> int:
    """How many steps of a budget fit into a time, by measuring some.

    A tenth of the time is kept for decoding pictures and for a busy machine.

    Args:
        config: settings of the search.
        minutes: time to fill.
        step: does the work of one step.
        epoch: does the work at the start of an epoch.
    """
    # The first steps also decode pictures and warm up the allocator.
    usual = statistics.median([_seconds(step) for _ in range(_TIMED_STEPS)][_TIMED_STEPS // 4 :])
    epochs = _seconds(epoch) * _EPOCHS_IN_WINDOW / config.search_share
    return max(1, int((_FILLED * 60 * minutes - epochs) / usual))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
