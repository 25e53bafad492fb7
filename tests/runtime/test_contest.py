from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.runtime.bench_result import Bench
from sls_deploy.runtime.contest import Contestant, hold_contest
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import LayerTime, Pictures, Runner, Stopwatch

PICTURES = np.random.default_rng(0).random((2, 3, 10, 20), dtype=np.float32)


class Clockwork:
    """Doubles pictures, and takes a given time for it."""

    note = ""

    def __init__(self, ms: float, note: str = "", memory_mib: int = 0) -> None:
        self.name, self.ms, self.note, self.memory_mib = "clockwork", ms, note, memory_mib
        self.closed = False

    def run(self, pictures: Pictures) -> Pictures:
        _ = np.ones(self.memory_mib * 2**20, np.uint8)
        return pictures.repeat(2, axis=2).repeat(2, axis=3)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        return lambda: self.ms

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        return (LayerTime("all", "", "cpu", self.ms),)

    def close(self) -> None:
        self.closed = True


def contestant(name: str, opened: Callable[[], Runner]) -> Contestant:
    return Contestant(name, "torch", "cpu", opened)


def contest(*contestants: Contestant, profile: bool = False, **known: str) -> Bench:
    return hold_contest(
        "here",
        None,
        contestants,
        PICTURES,
        warm_up=1,
        repeats=4,
        threads=1,
        profile=profile,
        not_run=dict(known),
    )


def broken() -> Runner:
    raise SlsError("needs a GPU", "engine")


def test_each_row_is_compared_with_the_reference_of_its_device() -> None:
    reference = replace(contestant("dense", lambda: Clockwork(8.0)), reference=True)
    bench = contest(reference, contestant("sparse", lambda: Clockwork(2.0)))
    assert [row.ratio for row in bench.rows] == [1.0, 0.25]


def test_without_a_reference_there_is_no_ratio() -> None:
    assert contest(contestant("alone", lambda: Clockwork(2.0))).rows[0].ratio is None


def test_throughput_counts_pictures_and_pixels_of_the_output() -> None:
    bench = contest(contestant("form", lambda: Clockwork(4.0)))
    row = bench.rows[0]
    assert bench.output_shape == (2, 3, 20, 40)
    assert row.pictures_per_second == pytest.approx(500)
    assert row.megapixels_per_second == pytest.approx(500 * 800 / 1e6)


def test_what_cannot_run_is_listed_with_its_reason() -> None:
    bench = contest(
        contestant("engine", broken), contestant("form", lambda: Clockwork(1.0)), old="stale"
    )
    assert [row.name for row in bench.rows] == ["form"]
    assert bench.not_run == {"old": "stale", "engine": "needs a GPU"}


def test_a_runner_that_cannot_take_the_pictures_is_listed_and_closed() -> None:
    made: list[TorchRunner] = []

    def opened() -> TorchRunner:
        made.append(TorchRunner(nn.Conv2d(4, 4, 1)))
        return made[0]

    bench = contest(contestant("wrong", opened), contestant("form", lambda: Clockwork(1.0)))
    assert "failed on pictures of shape [2, 3, 10, 20]" in bench.not_run["wrong"]
    with pytest.raises(SlsError, match="was closed"):
        made[0].run(PICTURES)


def test_if_nothing_can_run_the_reasons_are_told() -> None:
    with pytest.raises(SlsError, match=r"here: nothing of it can run here \(engine: needs a GPU\)"):
        contest(contestant("engine", broken))


def test_runners_are_closed_in_the_end() -> None:
    runners = [Clockwork(1.0), Clockwork(2.0)]
    contest(*(contestant(str(runner.ms), lambda runner=runner: runner) for runner in runners))
    assert all(runner.closed for runner in runners)


def test_layers_are_timed_only_where_asked() -> None:
    form = contestant("form", lambda: Clockwork(1.0))
    assert contest(form).rows[0].layers is None
    assert contest(form, profile=True).rows[0].layers == (LayerTime("all", "", "cpu", 1.0),)


def test_a_row_says_what_its_runner_says() -> None:
    bench = contest(contestant("form", lambda: Clockwork(1.0, note="goes slower")))
    assert bench.rows[0].note == "goes slower"


def test_unstable_times_are_noted() -> None:
    times = iter([1.0] * 3 + [9.0] * 10)  # warm-up, first of the block, and one good run

    class Unsteady(Clockwork):
        def stopwatch(self, pictures: Pictures) -> Stopwatch:
            return lambda: next(times, 9.0)

    rows = contest(contestant("form", lambda: Unsteady(0.0))).rows
    assert not rows[0].note
    times = iter([1.0] * 5 + [9.0] * 10)
    assert (
        "unstable: one run in ten took"
        in contest(contestant("form", lambda: Unsteady(0.0))).rows[0].note
    )


def test_memory_is_what_the_first_run_took_at_its_peak() -> None:
    small, large = contest(
        contestant("small", lambda: Clockwork(1.0)),
        contestant("large", lambda: Clockwork(1.0, memory_mib=200)),
    ).rows
    if small.memory_mib is None or large.memory_mib is None:
        pytest.skip("this system does not tell peak memory")
    assert small.memory_mib < 50
    assert large.memory_mib == pytest.approx(200, abs=20)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch sees a GPU")
def test_on_the_cpu_no_gpu_is_named() -> None:
    bench = contest(contestant("form", lambda: Clockwork(1.0)))
    assert bench.gpu is None
    assert bench.processor
