from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sls_deploy.cli import bench as command
from sls_deploy.engine.device import Device
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.runtime.bench_result import Bench, read_bench
from tests.cli.conftest import Program, Project

SHAPE = "1x3x24x32"


@pytest.fixture(scope="module")
def benched(project: Project, program: Program) -> tuple[str, Bench]:
    """What `bench` printed of the newest run, and what it wrote."""
    outcome = program(
        "bench", "--shape", SHAPE, "--repeats", 4, "--threads", 1, "--profile", cwd=project.folder
    )
    assert (outcome.code, outcome.err.splitlines()[-1]) == (0, "time 4/4")
    (written,) = (project.run / "bench" / "b0.50").glob(f"*-{SHAPE}.json")
    assert f"wrote {written.relative_to(project.folder)}" in outcome.out
    return outcome.out, read_bench(written)


def test_every_form_that_can_run_is_timed(benched: tuple[str, Bench]) -> None:
    out, result = benched
    names = [row.name for row in result.rows]
    assert names[:4] == ["dense PyTorch", "sparse PyTorch", "ONNX fp32", "ONNX fp16"]
    for row in result.rows:
        assert row.timing.runs == 4
        assert row.ratio == pytest.approx(row.timing.p50 / result.rows[0].timing.p50)
        assert row.name in out
    assert (result.shape, result.output_shape) == ((1, 3, 24, 32), (1, 3, 48, 64))


def test_layers_are_shown_where_the_backend_has_them(benched: tuple[str, Bench]) -> None:
    out, result = benched
    layers = {row.name: row.layers for row in result.rows}
    assert layers["dense PyTorch"] is None
    assert layers["ONNX fp32"]
    assert any(layer.kind == "Conv" for layer in layers["ONNX fp32"])
    assert "ONNX fp32, the slowest of" in out


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_an_engine_that_cannot_run_is_listed_with_the_reason(benched: tuple[str, Bench]) -> None:
    out, _ = benched
    reason = "needs an NVIDIA GPU of compute capability 8.6, and there is none here"
    assert f"TensorRT sm86-fp16 was not run: {reason}" in out


def test_a_damaged_engine_is_not_said_to_be_of_another_export(
    project: Project, program: Program, tmp_path: Path
) -> None:
    run = shutil.copytree(project.run, tmp_path / "run")
    with (run / "engines" / "b0.50" / "sm86-fp16.plan").open("ab") as plan:
        plan.write(b"!")
    arguments = ("--shape", "1x3x16x16", "--repeats", 1)
    outcome = program("bench", run, "--json", *arguments, cwd=tmp_path)
    reason = json.loads(outcome.out)[0]["not_run"]["TensorRT sm86-fp16"]
    assert reason == "it, or what it was built from, has changed: build it again"


def test_json_holds_what_was_written(project: Project, program: Program, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ("--shape", "1x3x16x16", "--repeats", 1, "--backend", "torch", "--out", file)
    outcome = program("bench", "--json", *arguments, cwd=project.folder)
    (printed,) = json.loads(outcome.out)
    assert printed == json.loads(file.read_text())
    assert [row["backend"] for row in printed["rows"]] == ["torch", "torch"]
    assert outcome.err == ""


def test_precisions_can_be_chosen(project: Project, program: Program) -> None:
    arguments = ("--shape", "1x3x16x16", "--repeats", 1, "--precision", "fp16")
    outcome = program("bench", "--json", *arguments, cwd=project.folder)
    names = [row["name"] for row in json.loads(outcome.out)[0]["rows"]]
    assert names[:3] == ["dense PyTorch", "sparse PyTorch", "ONNX fp16"]
    assert not any("fp32" in name for name in names)


def test_an_onnx_file_alone_is_timed(project: Project, program: Program) -> None:
    file = project.run / "export" / "b0.50" / "model.fp32.onnx"
    outcome = program("bench", file, "--repeats", 1, "--shape", SHAPE, cwd=project.folder)
    assert outcome.code == 0
    assert "model.fp32.onnx" in outcome.out
    assert "wrote" not in outcome.out


def test_threads_are_put_back(project: Project, program: Program) -> None:
    before = torch.get_num_threads()
    program("bench", "--shape", "1x3x16x16", "--repeats", 1, "--threads", 3, cwd=project.folder)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_an_engine_alone_says_what_it_needs(project: Project, program: Program) -> None:
    plan = project.run / "engines" / "b0.50" / "sm86-fp16.plan"
    outcome = program("bench", plan, cwd=project.folder)
    assert outcome.code == 2
    assert "nothing of it can run here" in outcome.err
    assert "compute capability 8.6" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--backend", "cuda"), "'cuda' is no backend"),
        (("--precision", "fp17"), "'fp17'"),
        (("--shape", "24x32"), "'24x32' is not a shape"),
        (("--shape", "1x4x24x32"), "takes 3 channels, not 4"),
        (("--budget", "0.3"), "0.3"),
        (("--layers", "--sparsity"), "two measurements"),
        (("nothing.onnx",), "nothing.onnx"),
        (("export.plan", "--budget", "0.5"), "means nothing for a file"),
    ],
)
def test_bad_input_is_one_line(
    project: Project, program: Program, arguments: tuple[str, ...], named: str
) -> None:
    outcome = program("bench", *arguments, cwd=project.folder)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert named in outcome.err


def test_a_file_and_a_backend_that_does_not_run_it(project: Project, program: Program) -> None:
    file = project.run / "export" / "b0.50" / "model.fp32.onnx"
    outcome = program("bench", file, "--backend", "torch", cwd=project.folder)
    assert "does not run with torch" in outcome.err


@pytest.mark.parametrize("visible", [None, "", "0"])
@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error(
    project: Project, program: Program, monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    outcome = program("bench", "--gpu", 1, cwd=project.folder)
    assert (outcome.code, "--gpu 1: there is no such NVIDIA GPU" in outcome.err) == (2, True)
    assert "`nvidia-smi -L` lists what is there" in outcome.err


@pytest.mark.parametrize(
    ("visible", "index", "chosen"), [("", 2, "2"), ("5,7", 1, "7"), ("GPU-a", 0, "GPU-a")]
)
def test_the_driver_is_asked_when_one_gpu_is_chosen_among_the_visible_ones(
    monkeypatch: pytest.MonkeyPatch, visible: str, index: int, chosen: str
) -> None:
    seen = []

    def ask() -> object:
        seen.append((os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]))
        return object()

    monkeypatch.setattr("sls_deploy.engine.gpu.visible_gpu", ask)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    if not visible:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    command.choose_gpu(index)
    # As nvidia-smi counts, unless whoever runs it wants another order.
    assert seen == [(chosen, "FASTEST_FIRST" if visible else "PCI_BUS_ID")]


def test_layers_and_sparsity_are_measured_by_their_own_commands(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []
    for name in ("bench_layers", "bench_sparsity"):
        module = ModuleType(f"sls_deploy.cli.{name}")
        setattr(module, name, lambda *given, json, name=name: calls.append((name, *given, json)))
        monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    program("bench", "run", "--layers", "--shape", SHAPE, "--out", "table.json", cwd=tmp_path)
    program("bench", "run", "--sparsity", "--budget", "0.5", "--json", cwd=tmp_path)
    assert calls == [
        ("bench_layers", Path("run"), "auto", SHAPE, None, Path("table.json"), False),
        ("bench_sparsity", Path("run"), "0.5", None, None, True),
    ]


def test_moving_clocks_are_told(benched: tuple[str, Bench]) -> None:
    _, result = benched
    before = Device("NVIDIA A10", "sm86", "550", "12.4", 23028, 1500, 1695, 6251, None)
    result = replace(result, gpu=before, gpu_after=replace(before, sm_clock_mhz=1200))
    (line,) = command.clock_notes(result)
    assert "1500 MHz before and 1200 MHz after" in line
    assert "--lock-gpu-clocks=MHZ" in line
    locked = replace(result, gpu_after=replace(before, clocks_locked=True))
    assert command.clock_notes(locked) == []


def test_figures_of_some_forms_do_not_replace_those_of_all(
    benched: tuple[str, Bench], project: Project, program: Program
) -> None:
    kept = sorted((project.run / "bench").rglob("*.json"))
    before = [path.read_bytes() for path in kept]
    program(
        "bench", "--shape", SHAPE, "--repeats", 2, "--threads", 1, "--backend", "torch",
        cwd=project.folder,
    )  # fmt: skip
    assert sorted((project.run / "bench").rglob("*.json")) == kept
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--layers", "--threads", 2), "--threads: means nothing beside --layers"),
        (("--layers", "--budget", "0.5"), "--budget: means nothing beside --layers"),
        (("--sparsity", "--backend", "torch"), "--backend: means nothing beside --sparsity"),
        (("--sparsity", "--profile"), "--profile: means nothing beside --sparsity"),
        (("--shape", "1x3x9000000x9000000"), "GiB for the input alone"),
    ],
)
def test_flags_without_effect_and_impossible_sizes_are_refused(
    project: Project, program: Program, flags: tuple[Any, ...], said: str
) -> None:
    outcome = program("bench", *flags, cwd=project.folder)
    assert outcome.code == 2
    assert said in outcome.err


def test_a_precision_means_nothing_for_a_file(project: Project, program: Program) -> None:
    file = project.run / "export" / "b0.50" / "model.fp32.onnx"
    outcome = program("bench", file, "--precision", "fp16", cwd=project.folder)
    assert outcome.code == 2
    assert "--precision: means nothing for a file" in outcome.err


def test_percentiles_that_so_few_runs_cannot_tell_are_left_out(benched: tuple[str, Bench]) -> None:
    printed, result = benched
    assert result.repeats < 10
    row = next(line for line in printed.splitlines() if line.startswith("sparse PyTorch"))
    assert row.split()[3:5] == ["-", "-"]
