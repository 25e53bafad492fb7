from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.latency import (
    LatencyRow,
    LatencyTable,
    LayerShape,
    Machine,
    read_table,
    shape_of,
    write_table,
)
from sls_deploy.errors import SlsError


def shape(inputs: int, outputs: int, height: int = 180, width: int = 320) -> LayerShape:
    return LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), inputs, outputs, 1, height, width)


def row(layer: LayerShape, dense_us: float, sparse_us: float, spread: float = 0.01) -> LatencyRow:
    return LatencyRow(
        **asdict(layer), dense_us=dense_us, sparse_us=sparse_us, spread=spread, runs=50
    )


def plane(inputs: int, outputs: int) -> LatencyRow:
    """A layer of a GPU whose times are bilinear in the channels."""
    time = 1 + inputs * 2 + outputs * 3 + inputs * outputs / 10
    return row(shape(inputs, outputs), time, time / 2)


A10 = Machine("NVIDIA A10", "8.6", "tensorrt", "10.13", 0, "fp16")
TABLE = LatencyTable(
    version=3,
    machine=A10,
    height=180,
    width=320,
    drift=0.003,
    warnings=("the clocks are not known to be locked",),
    rows=tuple(plane(i, o) for i in (16, 32, 64) for o in (16, 64)),
)


def test_a_measured_layer_has_its_own_times() -> None:
    assert TABLE.look_up(shape(32, 64)) == plane(32, 64)


@given(st.integers(16, 64), st.integers(16, 64))
def test_between_measured_channels_times_are_interpolated(inputs: int, outputs: int) -> None:
    found, expected = TABLE.look_up(shape(inputs, outputs)), plane(inputs, outputs)
    assert found.dense_us == pytest.approx(expected.dense_us)
    assert found.sparse_us == pytest.approx(expected.sparse_us)


def test_a_time_between_others_is_as_doubtful_as_the_worst_of_them() -> None:
    noisy = row(shape(64, 64), 100, 50, spread=0.2)
    rows = (*(r for r in TABLE.rows if shape_of(r) != shape_of(noisy)), noisy)
    table = replace(TABLE, rows=rows)
    assert table.look_up(shape(48, 40)).spread == 0.2
    assert table.look_up(shape(24, 40)).spread == 0.01


def test_the_nearest_neighbours_that_were_measured_are_taken() -> None:
    gap = replace(TABLE, rows=tuple(r for r in TABLE.rows if (r.inputs, r.outputs) != (32, 64)))
    found = gap.look_up(shape(40, 40))
    assert found.dense_us == pytest.approx(plane(40, 40).dense_us)


def test_the_time_of_another_size_grows_with_its_positions() -> None:
    found = TABLE.look_up(shape(32, 64, 270, 320))
    assert found.dense_us == pytest.approx(plane(32, 64).dense_us * 1.5)
    assert (found.height, found.width) == (270, 320)


def test_the_nearest_size_is_taken() -> None:
    larger = row(shape(32, 64, 360, 320), 1000, 900)
    both = replace(TABLE, rows=(*TABLE.rows, larger))
    assert both.look_up(shape(32, 64, 340, 320)).dense_us == pytest.approx(1000 * 340 / 360)


@pytest.mark.parametrize(
    "layer",
    [
        shape(8, 64),
        shape(64, 80),
        shape(32, 64, 361, 320),
        shape(32, 64, 89, 320),
        replace(shape(32, 64), kernel=(1, 1)),
        replace(shape(32, 64), stride=(2, 2)),
        replace(shape(32, 64), dilation=(4, 4)),
        replace(shape(32, 64), groups=2),
        replace(shape(32, 64), kind="ConvTranspose2d"),
    ],
    ids=str,
)
def test_nothing_near_is_refused_by_name(layer: LayerShape) -> None:
    with pytest.raises(SlsError, match="was not measured on NVIDIA A10") as caught:
        TABLE.look_up(layer)
    assert str(layer) in caught.value.what
    assert "with the same --align, --narrow and --pattern" in caught.value.fix


def test_sizes_of_equal_area_are_two_layers(tmp_path: Path) -> None:
    both = (row(shape(32, 64, 90, 160), 10, 9), row(shape(32, 64, 45, 320), 20, 19))
    table = read_table(write_table(tmp_path / "table.json", replace(TABLE, rows=both)))
    assert table.look_up(shape(32, 64, 90, 160)).dense_us == 10


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (replace(shape(16, 8), groups=4), "Conv2d 3x3 16->8 x4 at 180x320"),
        (replace(shape(16, 8), stride=(2, 2)), "Conv2d 3x3 /2 16->8 at 180x320"),
        (replace(shape(16, 8), kernel=(1, 3), stride=(1, 2)), "Conv2d 1x3 /1x2 16->8 at 180x320"),
        (replace(shape(16, 8), dilation=(4, 4)), "Conv2d 3x3 dilated 4 16->8 at 180x320"),
        (LayerShape("Linear", (), (), (), 16, 8, 1, 3, 4), "Linear 16->8 at 3x4"),
        (LayerShape("Conv1d", (5,), (1,), (1,), 16, 8, 1, 3, 4), "Conv1d 5 16->8 at 3x4"),
    ],
)
def test_a_layer_reads_as_one_would_say_it(layer: LayerShape, said: str) -> None:
    assert str(layer) == said


@pytest.mark.parametrize(
    ("layer", "read", "written"),
    [
        (shape(16, 8, 10, 20), 200, 200),
        (replace(shape(16, 8, 10, 20), stride=(2, 2)), 800, 200),
        (replace(shape(16, 8, 10, 20), kind="ConvTranspose2d", stride=(2, 2)), 200, 800),
        (LayerShape("Linear", (), (), (), 16, 8, 1, 10, 20), 200, 200),
    ],
)
def test_positions_that_are_read_and_written(layer: LayerShape, read: int, written: int) -> None:
    assert (layer.read, layer.written) == (read, written)


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (A10, "NVIDIA A10 with tensorrt 10.13 in fp16"),
        (replace(A10, threads=1), "NVIDIA A10 with tensorrt 10.13 in fp16, 1 thread"),
        (replace(A10, threads=4), "NVIDIA A10 with tensorrt 10.13 in fp16, 4 threads"),
    ],
)
def test_a_machine_reads_as_one_would_say_it(machine: Machine, said: str) -> None:
    assert str(machine) == said


def test_a_written_table_reads_back(tmp_path: Path) -> None:
    assert read_table(write_table(tmp_path / "table.json", TABLE)) == TABLE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "two"}, "version: .*3"),
        ({"rows": []}, "rows: .*at least 1"),
        ({"machine": {**asdict(A10), "precision": "int4"}}, r"machine\.precision"),
        ({"machine": {**asdict(A10), "device": None}}, r"machine\.device: .*string"),
        ({"height": 0}, "height: .*greater than or equal to 1"),
        ({"drift": float("inf")}, "drift"),
        ({"comment": "hello"}, "comment"),
    ],
)
def test_a_table_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = write_table(tmp_path / "table.json", TABLE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SlsError, match=rf"table\.json: is not a latency table \({reason}"):
        read_table(path)


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_table_of_another_version_is_refused_in_a_line(tmp_path: Path, version: int) -> None:
    old = {"version": version, "gpu": "NVIDIA A10", "compute_capability": "8.6", "rows": []}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    line = rf"is a latency table of version {version}, not 3\. .*bench --layers"
    with pytest.raises(SlsError, match=line) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dense_us", 0),
        ("dense_us", -1.0),
        ("sparse_us", "fast"),
        ("sparse_us", float("nan")),
        ("sparse_us", float("inf")),
        ("inputs", 1.5),
        ("kernel", [3, 0]),
        ("colour", "red"),
        ("spread", -0.1),
        ("runs", 0),
    ],
)
def test_a_row_of_another_form_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = write_table(tmp_path / "table.json", TABLE)
    values = json.loads(path.read_text())
    values["rows"][3][key] = value
    path.write_text(json.dumps(values))
    with pytest.raises(SlsError, match=rf"not a latency table \(rows\.3\.{key}"):
        read_table(path)


def test_a_layer_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    twice = replace(TABLE, rows=(*TABLE.rows, row(shape(32, 64), 1, 1)))
    path = write_table(tmp_path / "table.json", twice)
    with pytest.raises(SlsError, match="holds Conv2d 3x3 32->64 at 180x320 twice"):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"version": 1'])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(SlsError, match="is not a latency table") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"cannot be read \(No such file.*\(--table\)"):
        read_table(tmp_path / "table.json")
