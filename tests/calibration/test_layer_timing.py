from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.latency import LayerShape, LayerTime, Machine, read_table, shape_of
from sls_deploy.calibration.layer_timing import layer_time, measure_table
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress

MACHINE = Machine("a made-up one", "", "onnxruntime", "1.0", 1, "fp32")
LAYERS = [LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), 16, n, 1, 20, 30) for n in (8, 16, 32)]
PICTURE = (20, 30)


class Timer:
    """Takes a microsecond an output channel; fails at a call if it is told so."""

    def __init__(self, machine: Machine = MACHINE, stop: int = 0, slower: float = 1.0) -> None:
        self.machine, self.stop, self.slower = machine, stop, slower
        self.timed: list[LayerShape] = []
        self.warnings: tuple[str, ...] = ()
        self.spread = 0.02

    def time(self, shape: LayerShape) -> LayerTime:
        self.timed.append(shape)
        if len(self.timed) == self.stop:
            raise KeyboardInterrupt
        slower = self.slower if len(self.timed) > len(LAYERS) else 1.0
        dense = shape.outputs * slower
        return LayerTime(dense, dense / 2, self.spread, 9)


def test_each_layer_is_timed_once_and_the_first_again_at_the_end(tmp_path: Path) -> None:
    timer, path = Timer(), tmp_path / "deep" / "table.json"
    table = measure_table([*LAYERS, LAYERS[1]], PICTURE, timer, path)
    assert timer.timed == [*LAYERS, LAYERS[0]]
    assert [row.dense_us for row in table.rows] == [8, 16, 32]
    assert (table.machine, table.height, table.width) == (MACHINE, 20, 30)
    assert (table.drift, table.warnings) == (0, ())
    assert read_table(path) == table


def test_an_interrupted_measurement_goes_on_with_the_layer_it_stopped_at(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        measure_table(LAYERS, PICTURE, Timer(stop=3), path)
    begun = read_table(path)
    assert [shape_of(row) for row in begun.rows] == LAYERS[:2]
    assert begun.drift is None
    timer = Timer()
    table = measure_table(LAYERS, PICTURE, timer, path)
    assert timer.timed == [LAYERS[2], LAYERS[0]]
    assert [shape_of(row) for row in table.rows] == LAYERS
    assert table.drift == 0


def test_one_interrupted_at_its_very_end_only_measures_the_drift(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        measure_table(LAYERS, PICTURE, Timer(stop=4), path)
    timer = Timer()
    assert measure_table(LAYERS, PICTURE, timer, path).drift == 0
    assert timer.timed == LAYERS[:1]


def test_a_whole_table_is_not_measured_again_but_grows(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    whole = measure_table(LAYERS[:2], PICTURE, Timer(), path)
    idle = Timer()
    assert measure_table(LAYERS[:2], PICTURE, idle, path) == whole
    assert not idle.timed
    more = measure_table(LAYERS, PICTURE, Timer(), path)
    assert more.rows[:2] == whole.rows
    assert len(more.rows) == 3


@pytest.mark.parametrize(
    ("machine", "picture", "said"),
    [
        (replace(MACHINE, device="another"), PICTURE, "not of another with onnxruntime"),
        (
            replace(MACHINE, backend_version="2.0"),
            PICTURE,
            r"holds times of .* 1\.0 .*not of .* 2\.0",
        ),
        (MACHINE, (40, 60), "pictures of 20x30, not of .*40x60"),
    ],
)
def test_times_of_something_else_are_never_overwritten(
    tmp_path: Path, machine: Machine, picture: tuple[int, int], said: str
) -> None:
    path = tmp_path / "table.json"
    measure_table(LAYERS, PICTURE, Timer(), path)
    before = path.read_bytes()
    with pytest.raises(SlsError, match=f"{said}.*--out"):
        measure_table(LAYERS, picture, Timer(machine), path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_table_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(json.dumps({"version": 1}))
    said = r"is a latency table of version 1.*Name another file \(--out\), or delete it"
    with pytest.raises(SlsError, match=said):
        measure_table(LAYERS, PICTURE, Timer(), path)
    assert json.loads(path.read_text()) == {"version": 1}


@pytest.mark.parametrize(("slower", "said"), [(1.2, "20% longer"), (0.9, "10% less")])
def test_a_first_layer_that_drifted_casts_doubt(tmp_path: Path, slower: float, said: str) -> None:
    table = measure_table(LAYERS, PICTURE, Timer(slower=slower), tmp_path / "table.json")
    assert table.drift == pytest.approx(slower - 1)
    assert len(table.warnings) == 1
    assert said in table.warnings[0]


def test_a_drift_within_the_spread_of_the_runs_does_not(tmp_path: Path) -> None:
    timer = Timer(slower=1.08)
    timer.spread = 0.09
    assert not measure_table(LAYERS, PICTURE, timer, tmp_path / "table.json").warnings


def test_noise_in_what_takes_the_time_casts_doubt(tmp_path: Path) -> None:
    timer = Timer()
    timer.spread = 0.3
    table = measure_table(LAYERS, PICTURE, timer, tmp_path / "table.json")
    assert "100% of the time vary by more than 10% from run to run" in table.warnings[0]


def test_noise_in_a_tiny_layer_does_not(tmp_path: Path) -> None:
    class OneNoisy(Timer):
        def time(self, shape: LayerShape) -> LayerTime:
            time = super().time(shape)
            return replace(time, spread=0.9) if shape.outputs == 1 else time

    tiny = replace(LAYERS[0], outputs=1)
    assert not measure_table([*LAYERS, tiny], PICTURE, OneNoisy(), tmp_path / "t.json").warnings


def test_what_the_timer_doubts_stands_in_the_table_once(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for layers in (LAYERS[:2], LAYERS):
        timer = Timer()
        timer.warnings = ("clocks",)
        assert measure_table(layers, PICTURE, timer, path).warnings == ("clocks",)


def test_doubts_of_the_last_end_are_not_kept_when_the_table_grows(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    noisy = Timer()
    noisy.spread = 0.3
    assert measure_table(LAYERS[:1], PICTURE, noisy, path).warnings
    more = [*LAYERS, *(replace(LAYERS[2], inputs=n) for n in range(20, 40))]
    assert not measure_table(more, PICTURE, Timer(), path).warnings


def test_progress_is_reported_to_the_end(tmp_path: Path) -> None:
    reports: list[Progress] = []
    measure_table(LAYERS, PICTURE, Timer(), tmp_path / "table.json", reports.append)
    assert [(report.done, report.total) for report in reports] == [(n, 4) for n in range(5)]


def test_no_layers_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no layers"):
        measure_table([], PICTURE, Timer(), tmp_path / "table.json")


def test_time_and_spread_of_the_runs() -> None:
    found = layer_time([[10.0, 11, 12, 13, 14]], [[5.0, 5, 5, 5, 5, 80]])
    assert (found.dense_us, found.sparse_us, found.runs) == (12, 5, 5)
    assert found.spread == pytest.approx((2 / 12 + 0) / 2)


def test_sessions_of_one_kind_that_differ_are_spread() -> None:
    dense, sparse = [[13.0] * 9, [12.0] * 9, [14.0] * 9], [[12.0] * 9, [12.5] * 9, [12.0] * 9]
    found = layer_time(dense, sparse)
    assert (found.dense_us, found.sparse_us, found.runs) == (13, 12, 27)
    assert found.spread == pytest.approx(2 / 13)


@given(st.lists(st.floats(10, 20), min_size=2, max_size=5), st.integers(0, 9))
def test_two_kinds_that_are_one_differ_by_less_than_their_spread(
    medians: list[float], turn: int
) -> None:
    """The same sessions in another order are no gain, however they differ."""
    sessions = [[median] * 3 for median in medians]
    turned = sessions[turn % len(sessions) :] + sessions[: turn % len(sessions)]
    found = layer_time(sessions, turned)
    assert found.dense_us == found.sparse_us
    assert found.spread == pytest.approx((max(medians) - min(medians)) / found.dense_us)
