"""`sls-deploy inspect` of engines: what they are, and what is proven of their sparsity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.cli.bench_sparsity import bench_sparsity, print_gain
from sls_deploy.cli.inspect_engine import print_engine
from sls_deploy.engine.device import Device
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.engine.stage import build_engines
from sls_deploy.engine.tactics import LayerTactic, with_tactics
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from sls_deploy.runtime import gain_on_gpu, tensorrt
from sls_deploy.runtime.engine_inspection import EngineInspection, inspect_engine
from sls_deploy.runtime.sparsity_gain import LayerGain, SparsityGain, with_gain, write_gain
from tests.engine.conftest import build_options, make_run

Program = Callable[..., Any]
A10 = Device("NVIDIA A10", "sm86", "550.54.15", "12.4", 23028, 1350, 1695, 6251, None)
WITHOUT_GPU = pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an engine for two GPUs."""
    run = make_run(tmp_path_factory.mktemp("engines") / "run")
    build_engines(run, [0.5], build_options(architectures=("sm80+sm86",)))
    return run.path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs" / "small")


@pytest.fixture
def plan(run: Path) -> Path:
    return run / "engines" / "b0.50" / "sm80+sm86-fp16.plan"


def gain_for(plan: Path) -> SparsityGain:
    digest = hashlib.sha256(plan.read_bytes()).hexdigest()
    layers = (LayerGain("conv1", 0.4, 0.6), LayerGain("conv2", 0.5, None))
    return SparsityGain(
        plan_sha256=digest,
        backend="tensorrt_rtx",
        device=A10,
        shape=(1, 3, 32, 32),
        repeats=100,
        sparse_ms=(1.0, 1.1, 1.1, 1.1, 1.2),
        dense_ms=(1.1, 1.2, 1.2, 1.2, 1.3),
        layers=layers,
        dense_is_dense=True,
    )


def check_refused(outcome: Any, expected: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert expected in line


@WITHOUT_GPU
def test_an_engine_is_told_layer_by_layer(program: Program, plan: Path, tmp_path: Path) -> None:
    outcome = program("inspect", plan, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"engine {plan}: tensorrt_rtx ")
    assert lines[0].endswith("for sm80+sm86, fp16, budget 0.5")
    assert "built from model.fp16.onnx in" in lines[1]
    assert lines[2] == "  built without a GPU; default options"
    assert lines[3] == "  takes 1x3x16x16 to 2x3x64x64, kernels chosen for 1x3x32x32"
    rows = {line.split()[0]: line for line in lines if " Conv " in line}
    assert "TensorRT told nothing of: found, chosen, kernel" in outcome.out
    cells = ["conv1", "Conv", "fp16", "16", "1", "yes", "yes", "eligible"]
    assert rows["conv1"].split() == cells
    assert rows["conv4"].endswith("it has 4 convolution groups")
    assert "  3 of 6 layers: few channels: sparse kernels are seldom faster below 256" in lines
    assert lines[-3] == (
        "evidence L1: 3 of 3 eligible layers' weights found in the plan; "
        "kernel choice unknown until it is loaded on a GPU"
    )
    assert lines[-2] == (
        "  it was not loaded: needs an NVIDIA GPU of compute capability 8.0 or 8.6, and there is "
        "none here"
    )
    assert lines[-1].startswith("  gain: not measured for this engine")


def test_the_same_as_json(program: Program, plan: Path, tmp_path: Path) -> None:
    outcome = program("inspect", plan, "--json", cwd=tmp_path)
    found = json.loads(outcome.out)
    assert found["plan"] == str(plan)
    assert found["manifest"]["architecture"] == "sm80+sm86"
    assert [layer["bytes_in_plan"] for layer in found["evidence"]["layers"]] == [True] * 6
    assert found["gain"] is None


def test_an_engine_that_was_changed_is_refused(
    program: Program, plan: Path, tmp_path: Path
) -> None:
    plan.write_bytes(plan.read_bytes() + b"!")
    outcome = program("inspect", plan, cwd=tmp_path)
    check_refused(outcome, "is not the engine that sm80+sm86-fp16.json describes")


@pytest.mark.parametrize(("flag", "value"), [("--compare", "fp16"), ("--budget", "0.5")])
def test_flags_of_other_files_are_refused(
    flag: str, value: str, program: Program, plan: Path, tmp_path: Path
) -> None:
    check_refused(program("inspect", plan, flag, value, cwd=tmp_path), f"{flag}: means nothing")


@WITHOUT_GPU
def test_a_gain_is_shown_for_the_engine_that_it_was_measured_for(
    program: Program, plan: Path, tmp_path: Path
) -> None:
    write_gain(plan, gain_for(plan))
    found = json.loads(program("inspect", plan, "--json", cwd=tmp_path).out)
    assert (found["gain"]["verdict"], found["evidence"]["level"]) == ("within the noise", "L1")
    assert "tensorrt_rtx chooses kernels when it loads an engine" in found["evidence"]["statement"]
    last = program("inspect", plan, cwd=tmp_path).out.splitlines()[-1]
    assert last.startswith(
        "  gain: 1.09 times as fast with sparse kernels allowed on NVIDIA A10, within the noise"
    )
    manifest = plan.with_suffix(".json")
    plan.write_bytes(plan.read_bytes() + b"!")
    content = json.loads(manifest.read_text())
    content["plan_sha256"] = hashlib.sha256(plan.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    assert json.loads(program("inspect", plan, "--json", cwd=tmp_path).out)["gain"] is None


def test_kernels_of_a_loaded_engine_are_shown(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = verified_manifest(plan)
    tactics = [
        LayerTactic("conv1 + relu1", ("conv1", "relu1"), "sm80_xmma_fprop_sparse_conv", True),
        LayerTactic("conv2", ("conv2",), "sm80_xmma_fprop_implicit_gemm", False),
    ]
    gain = gain_for(plan)
    evidence = with_gain(with_tactics(manifest.evidence, tactics), gain, A10)
    print_engine(EngineInspection(plan, manifest, evidence, "", gain))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if " Conv " in line}
    assert rows["conv1"][7:9] == ["yes", "sm80_xmma_fprop_sparse_conv"]
    assert rows["conv2"][7:9] == ["no", "sm80_xmma_fprop_implicit_gemm"]
    assert rows["conv0"][7:9] == ["-", "-"]
    assert lines[-2].startswith("evidence L4: TensorRT chose a sparse kernel for 1 layers")
    assert not any("not loaded" in line for line in lines)


def test_a_gain_is_printed_with_the_layers_that_take_longest(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_gain(plan, gain_for(plan))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["conv1", "conv2"]
    assert lines[3].split() == ["conv2", "0.500", "-"]
    assert "within the noise" in lines[4]
    assert lines[5].startswith("  tensorrt_rtx chooses kernels when it loads an engine")
    assert lines[6] == (
        "  the clocks of the GPU are not known to be locked, 1350 MHz at the end: "
        "`sudo nvidia-smi --lock-gpu-clocks=MHZ` locks them, at what the GPU holds under load"
    )


def test_a_gain_as_json_says_what_makes_it_doubtful(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    monkeypatch.setattr(gain_on_gpu, "gain_of_engine", lambda plan, *given: gain_for(plan))
    bench_sparsity(plan, None, None, None, json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["dense_is_dense"]) == ("within the noise", True)
    assert found["doubts"][0].startswith("tensorrt_rtx chooses kernels when it loads an engine")
    assert found["device"]["name"] == "NVIDIA A10"
    evidence = inspect_engine(plan).evidence
    assert found["doubts"][0] in evidence.statement


@pytest.mark.parametrize("device", [None, replace(A10, clocks_locked=True)])
def test_nothing_is_said_of_clocks_that_are_locked_or_unknown(
    device: Device | None, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_gain(plan, replace(gain_for(plan), device=device))
    assert "clocks of the GPU" not in capsys.readouterr().out


def test_code_of_an_engine_from_elsewhere_is_not_run(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan.with_suffix(".json")
    content = json.loads(path.read_text())
    content["options"]["version_compatible"] = True
    path.write_text(json.dumps(content))
    # The next step is to load it, which needs a GPU; without one it is refused earlier.
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    found = inspect_engine(plan)
    assert found.not_loaded.startswith("may bring code for this machine and was not built here")
    assert found.evidence == found.manifest.evidence


@WITHOUT_GPU
@pytest.mark.parametrize("whole", [True, False])
def test_a_gain_cannot_be_measured_without_a_gpu(whole: bool, run: Path, plan: Path) -> None:
    with pytest.raises(SlsError, match=r"needs an NVIDIA GPU of compute capability 8\.0 or 8\.6"):
        bench_sparsity(run if whole else plan, None, None, None, json=False)
    assert list(plan.parent.glob("*.gain.json")) == []


@pytest.mark.parametrize(
    ("budget", "precision", "shape", "expected"),
    [
        (None, "bf16", None, "has no such engine"),
        ("0.25", None, None, "has no such engine"),
        (None, None, "1x3x16", "is not a shape"),
    ],
)
def test_what_is_not_there_is_named(
    budget: str | None, precision: str | None, shape: str | None, expected: str, run: Path
) -> None:
    with pytest.raises(SlsError, match=expected):
        bench_sparsity(run, budget, precision, shape, json=False)


def test_flags_of_a_run_mean_nothing_for_one_engine(plan: Path) -> None:
    with pytest.raises(SlsError, match="--precision: means nothing for one engine"):
        bench_sparsity(plan, None, "fp16", None, json=False)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_a_loaded_engine_is_asked_for_its_kernels(tmp_path: Path) -> None:
    run: Run = make_run(tmp_path / "run")
    options = build_options(architectures=(gpu_architecture(),), backend="auto")
    found = inspect_engine(build_engines(run, [0.5], options)[0].plan)
    assert found.not_loaded == ""
    assert "until it is loaded" not in found.evidence.statement
