from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.engine.evidence import Evidence, Level
from sls_deploy.engine.sparsity_log import SparsityLog
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress
from sls_deploy.runtime.sparsity_gain import (
    EngineTimes,
    LayerGain,
    SparsityGain,
    gain_file,
    measure_gain,
    read_gain,
    with_gain,
    write_gain,
)

PLAN_HASH = "0" * 64
MILLISECONDS = st.lists(st.floats(0.01, 100), min_size=3, max_size=6).map(tuple)


def gain_of(sparse: tuple[float, ...], dense: tuple[float, ...]) -> SparsityGain:
    return SparsityGain(PLAN_HASH, None, (1, 3, 180, 320), 100, sparse, dense, ())


class Bench:
    """Builds engines that are their own names, and times them by a list of times for each kind."""

    def __init__(self, sparse: list[float], dense: list[float]) -> None:
        self.built: list[bool] = []
        self._times: dict[bytes, Iterator[float]] = {b"sparse": iter(sparse), b"dense": iter(dense)}

    def build(self, sparse: bool) -> bytes:
        self.built.append(sparse)
        return b"sparse" if sparse else b"dense"

    def time(self, plan: bytes) -> EngineTimes:
        milliseconds = next(self._times[plan])
        return EngineTimes(milliseconds, {"conv": milliseconds / 2, plan.decode(): 0.25})


def measured(bench: Bench, builds: int = 3) -> SparsityGain:
    return measure_gain(
        bench.build,
        bench.time,
        plan_sha256=PLAN_HASH,
        device=None,
        shape=(1, 3, 180, 320),
        repeats=100,
        builds=builds,
    )


def test_engines_of_both_kinds_take_turns_and_change_who_is_first() -> None:
    bench = Bench([1.0, 1.1, 1.2], [2.0, 2.1, 2.2])
    gain = measured(bench)
    assert bench.built == [True, False, False, True, True, False]
    assert (gain.sparse_ms, gain.dense_ms) == ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2))
    assert gain.gain == pytest.approx(2.1 / 1.1)
    assert gain.spread == pytest.approx(0.2 / 1.1)
    assert gain.verdict == "faster"
    assert str(gain).startswith("1.91 times as fast with sparse kernels allowed, faster (1.100 ms")


def test_layers_are_compared_by_medians_over_the_builds_that_have_them() -> None:
    gain = measured(Bench([1.0, 3.0, 2.0], [4.0, 8.0, 6.0]))
    assert gain.layers == (
        LayerGain("conv", 1.0, 3.0),
        LayerGain("sparse", 0.25, None),
        LayerGain("dense", None, 0.25),
    )


def test_fewer_than_three_builds_are_refused() -> None:
    bench = Bench([], [])
    with pytest.raises(SlsError, match="2 builds tell nothing"):
        measured(bench, builds=2)
    assert bench.built == []


def test_every_build_is_reported() -> None:
    bench, reports = Bench([1.0] * 3, [1.0] * 3), list[Progress]()
    measure_gain(
        bench.build, bench.time, plan_sha256=PLAN_HASH, device=None, shape=(1, 3, 8, 8), repeats=1,
        report=reports.append,
    )  # fmt: skip
    assert [(report.done, report.total) for report in reports] == [(n, 6) for n in range(7)]


@given(MILLISECONDS, MILLISECONDS)
def test_a_verdict_needs_ranges_that_do_not_overlap(
    sparse: tuple[float, ...], dense: tuple[float, ...]
) -> None:
    gain = gain_of(sparse, dense)
    apart = all(a < b for a in sparse for b in dense) or all(a > b for a in sparse for b in dense)
    assert (gain.verdict == "within the noise") == (not apart)
    if apart:
        assert (gain.verdict == "faster") == (gain.gain > 1)
        assert gain.verdict == ("faster" if median(sparse) < median(dense) else "slower")


@given(MILLISECONDS, MILLISECONDS)
def test_the_other_way_round_the_gain_is_its_inverse(
    sparse: tuple[float, ...], dense: tuple[float, ...]
) -> None:
    here, there = gain_of(sparse, dense), gain_of(dense, sparse)
    assert here.gain * there.gain == pytest.approx(1)
    assert here.spread == there.spread


def test_engines_that_take_the_same_time_are_within_the_noise() -> None:
    assert gain_of((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)).verdict == "within the noise"


def test_a_gain_is_kept_beside_its_engine(tmp_path: Path) -> None:
    plan = tmp_path / "sm80+sm86-fp16.plan"
    gain = replace(measured(Bench([1.0] * 3, [2.0] * 3)), plan_sha256=PLAN_HASH)
    assert write_gain(plan, gain) == gain_file(plan) == tmp_path / "sm80+sm86-fp16.gain.json"
    assert read_gain(plan, PLAN_HASH) == gain


def test_the_gain_of_another_engine_is_not_believed(tmp_path: Path) -> None:
    plan = tmp_path / "sm86-fp16.plan"
    assert read_gain(plan, PLAN_HASH) is None
    write_gain(plan, gain_of((1.0,) * 3, (2.0,) * 3))
    assert read_gain(plan, "1" * 64) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sparse_ms": [1.0, 1.0]},
        {"sparse_ms": [1.0, 1.0, 0.0]},
        {"dense_ms": [1.0, 1.0, "nan"]},
        {"gain": 3.0},
        {"plan_sha256": None},
    ],
)
def test_a_file_that_nobody_measured_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    plan = tmp_path / "sm86-fp16.plan"
    path = write_gain(plan, gain_of((1.0,) * 3, (2.0,) * 3))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SlsError, match=r"is no measured gain .* bench --sparsity"):
        read_gain(plan, PLAN_HASH)


@pytest.mark.parametrize(
    ("before", "after"), [("L3", "L4"), ("L2", "L2"), ("L1", "L1"), ("none", "none")]
)
def test_a_gain_is_proof_only_where_sparse_kernels_are_known_to_run(
    before: Level, after: Level
) -> None:
    gain = gain_of((1.0,) * 3, (2.0,) * 3)
    evidence = with_gain(Evidence(before, "it is so", SparsityLog(), ()), gain)
    assert evidence.level == after
    assert evidence.statement == f"it is so; {gain}"
