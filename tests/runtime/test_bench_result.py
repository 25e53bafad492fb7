from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.engine.device import Device
from sls_deploy.errors import SlsError
from sls_deploy.runtime.bench_result import (
    Bench,
    BenchRow,
    bench_file_name,
    processor,
    read_bench,
    write_bench,
)
from sls_deploy.runtime.benchmark import summarise
from sls_deploy.runtime.runner import LayerTime

A10 = Device("NVIDIA A10", "sm86", "550.54.15", "12.4", 23028, 1500, 1695, 6251, None)
ROW = BenchRow(
    name="dense PyTorch",
    backend="torch",
    device="cuda",
    timing=summarise([1.0, 2.0, 4.0]),
    pictures_per_second=500.0,
    megapixels_per_second=460.8,
    ratio=1.0,
    memory_mib=None,
    note="",
    layers=(LayerTime("conv", "Conv", "cuda", 0.5),),
)
BENCH = Bench(
    version=1,
    target="runs/rlfn",
    budget=0.5,
    shape=(1, 3, 180, 320),
    output_shape=(1, 3, 720, 1280),
    processor="AMD EPYC 7B13",
    threads=2,
    gpu=A10,
    gpu_after=replace(A10, sm_clock_mhz=1400),
    versions={"torch": "2.13.0"},
    when="2026-01-02T03:04:05+00:00",
    warm_up=3,
    repeats=3,
    rows=(ROW, replace(ROW, layers=None, memory_mib=7)),
    not_run={"TensorRT sm89-fp16": "needs another GPU"},
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_bench(write_bench(tmp_path / "bench" / "figures.json", BENCH)) == BENCH


@pytest.mark.parametrize(
    ("change", "named"),
    [({"version": 2}, "version"), ({"speed": 1}, "speed"), ({"rows": [{}]}, "rows.0")],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    path = write_bench(tmp_path / "figures.json", BENCH)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SlsError, match=rf"holds no figures of .*\({named}"):
        read_bench(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"none\.json: cannot be read"):
        read_bench(tmp_path / "none.json")


def test_files_are_named_by_device_and_shape() -> None:
    assert bench_file_name(BENCH) == "nvidia-a10-1x3x180x320.json"
    on_cpu = replace(BENCH, gpu=None, gpu_after=None)
    assert bench_file_name(on_cpu) == "amd-epyc-7b13-2-threads-1x3x180x320.json"


def test_the_processor_has_a_name() -> None:
    assert processor().strip()
