from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sls_deploy.calibration import cpu_layers
from sls_deploy.calibration.latency import read_table, write_table
from sls_deploy.cli.bench_layers import bench_layers
from sls_deploy.config import BuildConfig, Config, DataConfig, ModelConfig, SearchConfig
from sls_deploy.config_file import to_toml
from sls_deploy.engine.device import present_device
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.run import CONFIG, Run

OPTIONS = {"features": 24, "blocks": 1, "scale": 2, "input_range": 1.0}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as far as its settings go; layers are timed a few times only."""
    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.0)
    return _run(tmp_path)


@pytest.fixture(scope="module")
def timed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a run, and the table of its layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_layers, "_SECONDS", 0.0)
        folder = _run(tmp_path_factory.mktemp("timed"))
        bench_layers(folder, "onnxruntime", None, None, None, json=True)
    return folder


@pytest.fixture
def timed(timed_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that may be changed; nothing is timed any more."""
    monkeypatch.setattr(cpu_layers.CpuLayers, "time", None)
    return shutil.copytree(timed_once, tmp_path / "runs" / "timed")


def _run(folder: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(Description("edsr", OPTIONS, 2, 1.0))
    config = Config(
        model=ModelConfig(weights=save_weights(folder / "small.safetensors", model)),
        data=DataConfig(photos=folder),
        build=BuildConfig(opt_shape=(1, 3, 16, 24)),
    )
    run = folder / "runs" / "small"
    run.mkdir(parents=True)
    (run / CONFIG).write_text(to_toml(config))
    return run


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
    command = f"--config {run / CONFIG} --cost latency --table {path} --out runs/NEW"
    assert command in printed.out
    assert "layer times" in printed.err


def test_the_same_command_takes_the_table_that_stands(timed: Path) -> None:
    before = table_of(timed).read_bytes()
    bench_layers(timed, "onnxruntime", None, None, None, json=False)
    assert table_of(timed).read_bytes() == before


def test_rows_of_an_interrupted_measurement_are_kept(
    run: Path, timed_once: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.json"
    whole = read_table(table_of(timed_once))
    kept = json.loads(table_of(timed_once).read_text())
    kept.update(rows=kept["rows"][:3], drift=None)
    out.write_text(json.dumps(kept))
    bench_layers(run, "onnxruntime", "1x3x16x24", "fp32", out, json=True)
    again = read_table(out)
    assert again.rows[:3] == whole.rows[:3]
    assert len(again.rows) == len(whole.rows)
    assert not (run / "latency").exists()


def test_json_holds_the_table_alone(timed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_layers(timed, "onnxruntime", None, None, None, json=True)
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["path"] == str(table_of(timed))
    assert len(told["table"]["rows"]) == 8
    assert told["table"]["version"] == 3
    assert not printed.err


def test_doubts_are_printed(timed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(table_of(timed).read_text())
    table["warnings"] = ["it was hot"]
    table_of(timed).write_text(json.dumps(table))
    bench_layers(timed, "onnxruntime", None, None, None, json=False)
    assert "warning: it was hot" in capsys.readouterr().out


@pytest.mark.skipif(present_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_auto_is_the_processor_and_tensorrt_is_refused(
    timed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_layers(timed, "auto", None, None, None, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(table_of(timed))
    assert told["table"]["machine"]["backend"] == "onnxruntime"
    with pytest.raises(SlsError, match=r"--backend: .*there is none here"):
        bench_layers(timed, "tensorrt", None, None, None, json=True)


@pytest.mark.parametrize(
    ("backend", "shape", "precision", "said"),
    [
        ("torch", None, None, "--backend: 'torch' times no layers alone. Choose onnxruntime"),
        ("onnxruntime", "2x3x12x12", None, "--shape: layers are timed for one picture"),
        ("onnxruntime", "1x5x12x12", None, "--shape: .*takes 3 channels, not 5. Give 1x3x12x12"),
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


def test_a_table_of_another_machine_is_left_alone(timed: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    table = json.loads(table_of(timed).read_text())
    table["machine"]["device"] = "NVIDIA A10"
    out.write_text(json.dumps(table))
    other = read_table(out)
    with pytest.raises(SlsError, match="holds times of NVIDIA A10"):
        bench_layers(timed, "onnxruntime", None, None, out, json=True)
    assert read_table(write_table(tmp_path / "copy.json", other)) == read_table(out)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no run there"):
        bench_layers(tmp_path, "onnxruntime", None, None, None, json=True)


def test_a_run_that_another_process_works_in_is_left_alone(run: Path) -> None:
    with (
        Run.open(run).locked(),
        pytest.raises(SlsError, match="another process works in this run"),
    ):
        bench_layers(run, "onnxruntime", None, None, None, json=True)
    assert not (run / "latency").exists()


@pytest.mark.parametrize("content", ["{broken", '{"version": 1}', '{"version": 2}'])
def test_a_file_that_is_no_table_is_named_with_a_flag_that_there_is(
    run: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "broken.json"
    out.write_text(content)
    with pytest.raises(SlsError, match=r"broken\.json: is .*table.* Name another file \(--out\)"):
        bench_layers(run, "onnxruntime", None, None, out, json=True)
    assert out.read_text() == content


def test_a_picture_that_memory_does_not_hold_is_refused(run: Path) -> None:
    with pytest.raises(SlsError, match=r"--shape: .*needs .* GiB.*Give a smaller one"):
        bench_layers(run, "onnxruntime", "1x3x4000000x4000000", None, None, json=True)


NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.entry = nn.Conv2d(3, 32, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)
        )
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Sigmoid()
        )
        self.exit = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x):
        shape = x.shape[2] % 8, x.shape[3] % 8
        if any(shape):
            raise ValueError(f"{shape} are left")
        x = self.entry(x)
        return self.exit(x + self.block(x) * self.attention(x))
"""


@pytest.fixture
def own(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a network of the user's own, in a folder whose name the shell would split."""
    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.02)
    folder = tmp_path / "my own"
    folder.mkdir()
    (folder / "net.py").write_text(NETWORK)
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(NETWORK, "net.py", "exec"), space)  # noqa: S102 - the test's own text
    torch.manual_seed(0)
    torch.save(space["Net"]().state_dict(), folder / "net.pth")
    search = {"method": "reconstruct", "budgets": (0.9,), "crops": 4, "patch": 16}
    estimate = {"cost": "latency", "gpu": "l4", "permute": False}
    config = Config(
        model=ModelConfig(name=f"{folder / 'net.py'}:Net", weights=folder / "net.pth"),
        data=DataConfig(photos=photos, held_out=2, blur_length=6.0),
        search=SearchConfig.model_validate(search | estimate),
        build=BuildConfig(opt_shape=(1, 3, 61, 64)),
    )
    run = folder / "runs" / "old"
    run.mkdir(parents=True)
    (run / CONFIG).write_text(to_toml(config))
    return run


def test_the_command_that_is_printed_works(own: Path, program: Callable[..., Any]) -> None:
    folder = own.parent.parent
    told = program("bench", "runs/old", "--layers", "--backend", "onnxruntime", cwd=folder)
    assert told.code == 0, told.err
    assert "takes no pictures of 61x64: they are padded to 64x64" in told.out
    (printed,) = re.findall(r"^search with it: sls-deploy (.*)$", told.out, re.MULTILINE)
    searched = program(*shlex.split(printed), cwd=folder)
    assert searched.code == 0, searched.err
    assert re.search(r"cost: measured on .* pictures of 64x64", searched.out)
    assert (folder / "runs" / "NEW" / "search" / "b0.90" / "ratios.json").is_file()


def test_a_command_line_of_paths_with_spaces_is_quoted(
    own: Path, program: Callable[..., Any]
) -> None:
    told = program("bench", own, "--layers", "--backend", "onnxruntime", cwd=own.parent)
    assert f"--config '{own / CONFIG}' --cost latency" in told.out
