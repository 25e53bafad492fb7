from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.engine.device import Device
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
A10 = Device("NVIDIA A10", "sm86", "550.54.15", "12.4", 23028, 1350, 1695, 6251, None)
MILLISECONDS = st.lists(st.floats(0.01, 100), min_size=5, max_size=7).map(tuple)


def gain_of(sparse: tuple[float, ...], dense: tuple[float, ...], **change: Any) -> SparsityGain:
    shape = (1, 3, 180, 320)
    gain = SparsityGain(PLAN_HASH, "tensorrt", A10, shape, 100, sparse, dense, (), True)
    return replace(gain, **change)


TWICE = gain_of((1.0,) * 5, (2.0,) * 5)


class Bench:
    """Builds engines that are their own names, and times them by a list of times for each kind."""

    def __init__(
        self,
        sparse: list[float],
        dense: list[float],
        runs_sparse: Sequence[bool | None] = (False,) * 5,
    ) -> None:
        """`runs_sparse` is what is told of each build without sparse kernels."""
        self.built: list[bool] = []
        self.device: Device | None = None
        self._told = iter(runs_sparse)
        self._times: dict[bytes, Iterator[float]] = {b"sparse": iter(sparse), b"dense": iter(dense)}

    def build(self, sparse: bool) -> bytes:
        self.built.append(sparse)
        return b"sparse" if sparse else b"dense"

    def time(self, plan: bytes) -> EngineTimes:
        milliseconds = next(self._times[plan])
        self.device = replace(A10, sm_clock_mhz=300 + len(self.built))
        runs_sparse = True if plan == b"sparse" else next(self._told)
        return EngineTimes(
            milliseconds, {"conv": milliseconds / 2, plan.decode(): 0.25}, runs_sparse
        )


def measured(bench: Bench, builds: int = 5) -> SparsityGain:
    return measure_gain(
        bench.build,
        bench.time,
        plan_sha256=PLAN_HASH,
        backend="tensorrt",
        device=lambda: bench.device,
        shape=(1, 3, 180, 320),
        repeats=100,
        builds=builds,
    )


def test_engines_of_both_kinds_take_turns_and_change_who_is_first() -> None:
    bench = Bench([1.0, 1.1, 1.2, 1.1, 1.1], [2.0, 2.1, 2.2, 2.3, 2.1])
    gain = measured(bench)
    assert bench.built == [True, False, False, True, True, False, False, True, True, False]
    assert gain.sparse_ms == (1.0, 1.1, 1.2, 1.1, 1.1)
    assert gain.dense_ms == (2.0, 2.1, 2.2, 2.3, 2.1)
    assert gain.gain == pytest.approx(2.1 / 1.1)
    assert gain.spread == pytest.approx(0.2 / 1.1)
    assert str(gain).startswith(
        "1.91 times as fast with sparse kernels allowed on NVIDIA A10, faster (1.100 ms"
    )


def test_layers_are_compared_by_medians_over_the_builds_that_have_them() -> None:
    gain = measured(Bench([1.0, 3.0, 2.0, 2.0, 9.0], [4.0, 8.0, 6.0, 6.0, 1.0]))
    assert gain.layers == (
        LayerGain("conv", 1.0, 3.0),
        LayerGain("sparse", 0.25, None),
        LayerGain("dense", None, 0.25),
    )


def test_the_gpu_is_looked_at_after_the_last_engine_was_timed() -> None:
    assert measured(Bench([1.0] * 5, [2.0] * 5)).device == replace(A10, sm_clock_mhz=310)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((False,) * 5, True),
        ((False, False, None, False, False), None),
        ((None, False, False, True, False), False),
    ],
)
def test_every_build_without_sparse_kernels_must_be_known_to_run_none(
    told: tuple[bool | None, ...], expected: bool | None
) -> None:
    assert measured(Bench([1.0] * 5, [2.0] * 5, told)).dense_is_dense is expected


def test_fewer_than_five_builds_are_refused() -> None:
    bench = Bench([], [])
    with pytest.raises(SlsError, match="4 builds tell nothing"):
        measured(bench, builds=4)
    assert bench.built == []


def test_every_build_is_reported() -> None:
    bench, reports = Bench([1.0] * 5, [1.0] * 5), list[Progress]()
    measure_gain(
        bench.build, bench.time, plan_sha256=PLAN_HASH, backend="tensorrt", device=lambda: None,
        shape=(1, 3, 8, 8), repeats=1, report=reports.append,
    )  # fmt: skip
    assert [(report.done, report.total) for report in reports] == [(n, 10) for n in range(11)]


@given(MILLISECONDS, MILLISECONDS)
def test_a_verdict_needs_ranges_that_do_not_overlap_and_more_than_the_spread(
    sparse: tuple[float, ...], dense: tuple[float, ...]
) -> None:
    gain = gain_of(sparse, dense)
    apart = all(a < b for a in sparse for b in dense) or all(a > b for a in sparse for b in dense)
    clear = apart and abs(gain.gain - 1) > gain.spread
    assert (gain.verdict == "within the noise") == (not clear)
    if clear:
        assert gain.verdict == ("faster" if median(sparse) < median(dense) else "slower")


@pytest.mark.parametrize(
    ("sparse", "dense", "verdict"),
    [
        ((1.00, 1.02, 1.02, 1.02, 1.10), (1.11, 1.12, 1.12, 1.12, 1.21), "faster"),
        ((1.00, 1.02, 1.02, 1.02, 1.10), (1.11, 1.11, 1.11, 1.12, 1.21), "within the noise"),
        ((1.11, 1.11, 1.11, 1.12, 1.21), (1.00, 1.02, 1.02, 1.02, 1.10), "within the noise"),
        ((1.50, 1.51, 1.52, 1.53, 1.54), (1.00, 1.02, 1.02, 1.02, 1.10), "slower"),
    ],
)
def test_a_gain_within_the_spread_of_the_builds_is_none(
    sparse: tuple[float, ...], dense: tuple[float, ...], verdict: str
) -> None:
    gain = gain_of(sparse, dense)
    assert gain.verdict == verdict


def test_builds_of_one_kind_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(1, 0.02, (2000, 2, 5)).tolist()
    told = [gain_of(tuple(sparse), tuple(dense)).verdict for sparse, dense in drawn]
    assert sum(verdict != "within the noise" for verdict in told) <= 0.01 * len(told)


@given(MILLISECONDS, MILLISECONDS)
def test_the_other_way_round_the_gain_is_its_inverse(
    sparse: tuple[float, ...], dense: tuple[float, ...]
) -> None:
    here, there = gain_of(sparse, dense), gain_of(dense, sparse)
    assert here.gain * there.gain == pytest.approx(1)
    assert here.spread == there.spread


def test_engines_that_take_the_same_time_are_within_the_noise() -> None:
    assert gain_of((1.0,) * 5, (1.0,) * 5).verdict == "within the noise"


def test_a_gain_is_kept_beside_its_engine(tmp_path: Path) -> None:
    plan = tmp_path / "sm80+sm86-fp16.plan"
    gain = measured(Bench([1.0] * 5, [2.0] * 5))
    assert write_gain(plan, gain) == gain_file(plan) == tmp_path / "sm80+sm86-fp16.gain.json"
    assert read_gain(plan, PLAN_HASH) == gain


def test_the_gain_of_another_engine_is_not_believed(tmp_path: Path) -> None:
    plan = tmp_path / "sm86-fp16.plan"
    assert read_gain(plan, PLAN_HASH) is None
    write_gain(plan, TWICE)
    assert read_gain(plan, "1" * 64) is None


@pytest.mark.parametrize(
    "change",
    [
        {"sparse_ms": [1.0] * 4},
        {"sparse_ms": [1.0, 1.0, 1.0, 1.0, 0.0]},
        {"dense_ms": [1.0, 1.0, 1.0, 1.0, "nan"]},
        {"backend": "another"},
        {"gain": 3.0},
        {"plan_sha256": None},
    ],
)
def test_a_file_that_nobody_measured_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    plan = tmp_path / "sm86-fp16.plan"
    path = write_gain(plan, TWICE)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SlsError, match=r"is no measured gain .* bench --sparsity"):
        read_gain(plan, PLAN_HASH)


@pytest.mark.parametrize(
    ("before", "after"), [("L3", "L4"), ("L2", "L2"), ("L1", "L1"), ("none", "none")]
)
def test_a_gain_is_proof_only_where_sparse_kernels_are_known_to_run(
    before: Level, after: Level
) -> None:
    evidence = with_gain(Evidence(before, "it is so", SparsityLog(), ()), TWICE, None)
    assert evidence.level == after
    assert evidence.statement == f"it is so; {TWICE}"


L3 = Evidence("L3", "it is so", SparsityLog(), ())


@pytest.mark.parametrize(
    ("dense_is_dense", "level", "ending"),
    [
        (True, "L4", ""),
        (False, "L3", "; builds without sparse kernels run some, too"),
        (None, "L3", "; the kernels of the builds without sparse ones are not told"),
    ],
)
def test_the_same_kernels_against_each_other_prove_nothing(
    dense_is_dense: bool | None, level: Level, ending: str
) -> None:
    gain = replace(TWICE, dense_is_dense=dense_is_dense)
    evidence = with_gain(L3, gain, A10)
    assert (evidence.level, evidence.statement) == (level, f"it is so; {gain}{ending}")


def test_of_a_builder_that_chooses_kernels_at_loading_the_evidence_says_so() -> None:
    evidence = with_gain(L3, replace(TWICE, backend="tensorrt_rtx"), A10)
    assert "tensorrt_rtx chooses kernels when it loads an engine" in evidence.statement


@pytest.mark.parametrize(
    ("measured_on", "here", "level"),
    [
        (A10, A10, "L4"),
        (A10, replace(A10, sm_clock_mhz=210), "L4"),
        (A10, None, "L4"),
        (A10, replace(A10, name="NVIDIA A40"), "L3"),
        (None, A10, "L3"),
    ],
)
def test_a_gain_is_proof_on_the_gpu_that_it_was_measured_on(
    measured_on: Device | None, here: Device | None, level: Level
) -> None:
    evidence = with_gain(L3, replace(TWICE, device=measured_on), here)
    assert evidence.level == level
    assert evidence.statement.endswith("of this machine") == (level == "L3")
