from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from sls_deploy.calibration import cpu_layers
from sls_deploy.calibration.latency import read_table, write_table
from sls_deploy.cli.bench_layers import bench_layers
from sls_deploy.config import BuildConfig, Config, DataConfig, ModelConfig
from sls_deploy.config_file import to_toml
from sls_deploy.engine.device import present_device
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.run import CONFIG

OPTIONS = {"features": 24, "blocks": 1, "scale": 2, "input_range": 1.0}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as far as its settings go; layers are timed a few times only."""
    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.0)
    torch.manual_seed(0)
    model = build_model(Description("edsr", OPTIONS, 2, 1.0))
    config = Config(
        model=ModelConfig(weights=save_weights(tmp_path / "small.safetensors", model)),
        data=DataConfig(photos=tmp_path),
        build=BuildConfig(opt_shape=(1, 3, 16, 24)),
    )
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(to_toml(config))
    return folder


def table_of(run: Path) -> Path:
    (found,) = (run / "latency").iterdir()
    return found


def test_every_layer_stands_in_the_table_and_on_the_screen(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_layers(run, "onnxruntime", None, None, None, json=False)
    printed, path = capsys.readouterr(), table_of(run)
    table = read_table(path)
    assert re.fullmatch(r"[a-z0-9-]+-fp32-16x24\.json", path.name)
    assert (table.height, table.width, table.machine.backend) == (16, 24, "onnxruntime")
    assert len(table.rows) == 8  # two for the mean, first, body, to and from 16, up-scaling, last
    for row in table.rows:
        assert re.search(rf"->{row.outputs} .*{row.dense_us:.1f} ", printed.out)
    assert "1 thread, pictures of 16x24" in printed.out
    assert f"--cost latency --table {path}" in printed.out
    assert "layer times" in printed.err


def test_the_same_command_takes_the_table_that_stands(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_layers(run, "onnxruntime", None, None, None, json=False)
    before = table_of(run).read_bytes()
    monkeypatch.setattr(cpu_layers.CpuLayers, "time", None)  # nothing is timed any more
    bench_layers(run, "onnxruntime", None, None, None, json=False)
    assert table_of(run).read_bytes() == before


def test_rows_of_an_interrupted_measurement_are_kept(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    bench_layers(run, "onnxruntime", "1x3x12x12", "fp32", out, json=True)
    whole = read_table(out)
    kept = json.loads(out.read_text())
    kept.update(rows=kept["rows"][:3], drift=None)
    out.write_text(json.dumps(kept))
    bench_layers(run, "onnxruntime", "1x3x12x12", "fp32", out, json=True)
    again = read_table(out)
    assert again.rows[:3] == whole.rows[:3]
    assert len(again.rows) == len(whole.rows)
    assert not (run / "latency").exists()


def test_json_holds_the_table_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_layers(run, "onnxruntime", None, None, None, json=True)
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["path"] == str(table_of(run))
    assert len(told["table"]["rows"]) == 8
    assert told["table"]["version"] == 2
    assert not printed.err


def test_doubts_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_layers(run, "onnxruntime", None, None, None, json=True)
    table = json.loads(table_of(run).read_text())
    table["warnings"] = ["it was hot"]
    table_of(run).write_text(json.dumps(table))
    capsys.readouterr()
    bench_layers(run, "onnxruntime", None, None, None, json=False)
    assert "warning: it was hot" in capsys.readouterr().out


@pytest.mark.skipif(present_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_auto_is_the_processor_and_tensorrt_is_refused(run: Path) -> None:
    bench_layers(run, "auto", None, None, None, json=True)
    assert read_table(table_of(run)).machine.backend == "onnxruntime"
    with pytest.raises(SlsError, match=r"--backend: .*there is none here"):
        bench_layers(run, "tensorrt", None, None, None, json=True)


@pytest.mark.parametrize(
    ("backend", "shape", "precision", "said"),
    [
        ("torch", None, None, "--backend: 'torch' times no layers alone. Choose onnxruntime"),
        ("onnxruntime", "2x3x12x12", None, "--shape: layers are timed for one picture"),
        ("onnxruntime", "12x12", None, "--shape: .*is not a shape"),
        ("onnxruntime", None, "fp16", "--precision: .*compute in fp32"),
        ("onnxruntime", None, "int8", "--precision: .*not timed alone in int8"),
        ("onnxruntime", None, "fp32,fp16", "--precision: .*not timed alone in fp32,fp16"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(
    run: Path, backend: str, shape: str | None, precision: str | None, said: str
) -> None:
    with pytest.raises(SlsError, match=said):
        bench_layers(run, backend, shape, precision, None, json=True)
    assert not (run / "latency").exists()


def test_a_table_of_another_machine_is_left_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    bench_layers(run, "onnxruntime", None, None, out, json=True)
    table = json.loads(out.read_text())
    table["machine"]["device"] = "NVIDIA A10"
    out.write_text(json.dumps(table))
    other = read_table(out)
    with pytest.raises(SlsError, match="holds times of NVIDIA A10"):
        bench_layers(run, "onnxruntime", None, None, out, json=True)
    assert read_table(write_table(tmp_path / "copy.json", other)) == read_table(out)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no run there"):
        bench_layers(tmp_path, "onnxruntime", None, None, None, json=True)
