"""The doctor: visits to broken machines, and what it says of those that are not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.doctor import facts
from sls_deploy.doctor.abilities import abilities
from sls_deploy.doctor.ask import Answer, ask
from sls_deploy.doctor.diagnosis import Ability, Finding
from sls_deploy.doctor.examine import examine
from sls_deploy.doctor.graphics import check_driver, check_gpu
from sls_deploy.doctor.machine import check_disk, check_memory, check_python, check_system
from sls_deploy.doctor.software import (
    check_module,
    check_onnxruntime,
    check_provider,
    check_torch,
)
from sls_deploy.doctor.tiny import INPUT, OUTPUT, tiny_input, tiny_network
from sls_deploy.engine.device import Device
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.runtime.onnxruntime import open_session

A10 = Device("NVIDIA A10", "sm86", "550.54.15", "12.4", 23028, 1350, 1695, 6251, None)
T4 = Device("Tesla T4", "sm75", "550.54.15", "12.4", 15360, None, 1590, None, None)


def test_the_tiny_network_copies_its_input() -> None:
    session = open_session(tiny_network().SerializeToString())
    (output,) = session.run([OUTPUT], {INPUT: tiny_input()})
    np.testing.assert_array_equal(output, tiny_input())


def visit(tmp_path: Path, *modules: Path) -> tuple[dict[str, Finding], dict[str, Ability]]:
    """Examine with modules of ours in front of the installed ones."""
    script = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from sls_deploy.doctor.examine import examine
print(json.dumps(asdict(examine(Path(sys.argv[1])))))
"""
    path = os.pathsep.join(map(str, modules))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert done.stderr == ""
    return (
        {item["name"]: Finding(**item) for item in found["findings"]},
        {item["name"]: Ability(**item) for item in found["abilities"]},
    )


def test_broken_packages_are_lines_and_no_tracebacks(tmp_path: Path) -> None:
    """One that crashes, one that lacks a library, one that ends the process; all at once."""
    (tmp_path / "onnxruntime.py").write_text("import os\nos.abort()")
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libtensorrt_rtx.so: cannot open')")
    (tmp_path / "onnxscript.py").write_text(
        "import sys\nprint('no licence', file=sys.stderr)\nsys.exit(3)"
    )
    found, works = visit(tmp_path, tmp_path)
    assert found["ONNX Runtime"].state == "broken"
    assert found["ONNX Runtime"].says == "crashes (Aborted)"
    assert found["tensorrt_rtx"].says == "OSError: libtensorrt_rtx.so: cannot open"
    assert found["ONNX"].says == "ends its process with code 3 (no licence)"
    assert {name for name, ability in works.items() if ability.works} == {"search"}
    assert works["build"].says == "ONNX: ends its process with code 3 (no licence)"
    assert "--force-reinstall" in works["export"].fix


def test_type_stubs_are_not_taken_for_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("class Builder: ...")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ask(facts.Module, "module", "tensorrt")
    finding = check_module("tensorrt", found, gpu=True)
    assert finding.says.startswith(f"only type stubs are installed ({tmp_path}")
    assert finding.fix.startswith("pip uninstall -y tensorrt-stubs && pip install")
    assert check_module("tensorrt", found, gpu=False).state == "absent"


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("tensorrt", "10.12.0.36", "ok"),
        ("tensorrt", "11.2.1.9", "ok"),
        ("tensorrt", "10.9.0.34", "warning"),
        ("tensorrt_rtx", "1.7.1.116", "ok"),
        ("tensorrt_rtx", "1.0.0.21", "warning"),
    ],
)
def test_old_versions_of_tensorrt_are_told(name: str, version: str, state: str) -> None:
    finding = check_module(name, Answer(facts.Module(version), ""), gpu=True)
    assert finding.state == state
    assert finding.fix.endswith("--upgrade") == (state == "warning")


def test_a_package_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ask(facts.Module, "module", "tensorrt", timeout=1)
    assert found == Answer(None, "hangs (stopped after 1 s)")


def test_a_crash_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "import atexit, os\natexit.register(os.abort)\n__version__ = '10.9'\nclass Builder: ..."
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ask(facts.Module, "module", "tensorrt").facts == facts.Module("10.9")


def test_a_provider_that_stands_aside_for_the_cpu_does_not_count() -> None:
    found = ask(facts.Provider, "provider", "CUDAExecutionProvider")
    assert found.facts is None
    assert found.trouble == "does not load, the CPU stands in"


PRINTED = """
[E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] [ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file or directory
[W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*. Please install all dependencies
"""  # noqa: E501
"""What onnxruntime-gpu 1.31.1 printed on a machine without a GPU, shortened."""


def test_a_missing_library_of_onnx_runtime_is_named() -> None:
    found: Answer[facts.Provider] = Answer(None, "does not load", PRINTED)
    finding = check_provider("CUDAExecutionProvider", found, gpu=True)
    assert finding.says == "does not load: libcublasLt.so.13 is missing"
    assert finding.fix == "cuDNN 9 and CUDA 13: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert check_provider("CUDAExecutionProvider", found, gpu=False).state == "absent"


def test_two_onnx_runtimes_are_a_conflict() -> None:
    installed = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1", "onnx": "1.23.2"}
    runs = Answer(facts.OnnxRuntime("1.31.1", ()), "")
    finding = check_onnxruntime(runs, installed)
    assert finding.state == "warning"
    assert finding.says.startswith("onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both")
    assert finding.fix == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'sls-deploy[gpu]'"
    )
    assert check_onnxruntime(Answer(None, "crashes"), installed).state == "broken"
    assert check_onnxruntime(runs, {"onnxruntime-gpu": "1.31.1"}).says == "onnxruntime-gpu 1.31.1"
    missing = check_onnxruntime(Answer(None, "is not installed"), {})
    assert missing.fix == "pip install 'sls-deploy[cpu]'"


@pytest.mark.parametrize(
    ("cuda", "torch_cuda", "installed", "state", "says", "fix"),
    [
        ("12.4", "12.8", {"tensorrt-cu12": "10.13"}, "ok", "serves CUDA 12.4", ""),
        ("13.0", "12.8", {"tensorrt-cu13-libs": "11"}, "ok", "serves CUDA 13.0", ""),
        ("12.4", "13.0", {}, "broken", "torch needs CUDA 13", "to 580.65.06 or later."),
        ("12.4", None, {"tensorrt-cu13": "11"}, "broken", "tensorrt needs CUDA 13",
         "or pip install tensorrt-cu12."),
        ("12.4", None, {"tensorrt-rtx-cu13": "1.7"}, "broken", "tensorrt-rtx needs CUDA 13",
         "or pip install tensorrt-rtx-cu12."),
    ],
)  # fmt: skip
def test_driver_must_serve_the_cuda_of_the_packages(
    cuda: str, torch_cuda: str | None, installed: dict[str, str], state: str, says: str, fix: str
) -> None:
    finding = check_driver(facts.Gpu(cuda, A10, ""), torch_cuda, installed)
    assert finding.state == state
    assert says in finding.says
    assert finding.fix.endswith(fix)


def test_without_a_driver_nothing_is_asked_of_it() -> None:
    gpu = facts.Gpu("", None, "no NVIDIA driver is installed")
    assert check_driver(gpu, "13.0", {"tensorrt-cu13": "11"}).state == "absent"


def test_a_gpu_with_sparse_tensor_cores() -> None:
    gpu, sparse, clocks = check_gpu(facts.Gpu("12.4", A10, ""))
    assert gpu.says == "NVIDIA A10, compute capability 8.6, 23028 MiB"
    assert sparse.state == "ok"
    assert "NVML cannot tell" in clocks.says
    assert "nvidia-smi --lock-gpu-clocks" in clocks.fix


def test_a_gpu_without_sparse_tensor_cores() -> None:
    _, sparse, clocks = check_gpu(facts.Gpu("12.4", T4, ""))
    assert sparse.state == "warning"
    assert clocks.fix == "pip install nvidia-ml-py"


@pytest.mark.parametrize(
    ("cuda", "refusal", "present", "state"),
    [
        (None, "", False, "ok"),
        (None, "", True, "warning"),
        ("12.8", "", True, "ok"),
        ("12.8", "RuntimeError: no driver", False, "ok"),
        ("13.0", "RuntimeError: the driver is too old", True, "broken"),
    ],
)
def test_torch_must_see_a_gpu_that_is_there(
    cuda: str | None, refusal: str, present: bool, state: str
) -> None:
    gpu = facts.Gpu("12.4", A10 if present else None, "")
    finding = check_torch(Answer(facts.Torch("2.13.0", cuda, refusal), ""), gpu)
    assert finding.state == state
    assert bool(finding.fix) == (state != "ok")


def test_engines_that_ran_on_the_gpu_are_an_ability() -> None:
    findings = [
        *check_gpu(facts.Gpu("12.4", A10, "")),
        check_driver(facts.Gpu("12.4", A10, ""), None, {}),
        *(Finding(name, "ok", "") for name in
          ("Python", "working folder", "PyTorch", "ONNX", "ONNX Runtime")),
    ]  # fmt: skip
    build = Answer(facts.Build(("sm86",), "tensorrt.plan", 9.0, 900), "")
    ran = Answer(facts.Execution(0.02), "")
    *_, run = abilities(findings, {"tensorrt": build}, {"tensorrt": ran})
    assert run == Ability(
        "run and time engines",
        works=True,
        essential=False,
        says="tensorrt on NVIDIA A10, compute capability 8.6, 23028 MiB",
    )
    *_, run = abilities(findings, {"tensorrt": build}, {"tensorrt": Answer(None, "crashes")})
    assert (run.works, run.says) == (False, "tensorrt: crashes")


def test_python_memory_and_system_have_limits() -> None:
    assert check_python((3, 11, 0)).state == "ok"
    assert check_python((3, 10, 9)).state == "broken"
    assert check_memory(2048).state == "warning"
    assert check_system("Darwin", "arm64", "macOS").state == "warning"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert check_disk("working folder", tmp_path / "runs").state == "broken"


def test_a_folder_on_a_system_that_takes_no_files() -> None:
    finding = check_disk("cache", Path("/proc/nowhere"))
    assert finding.state == "broken"
    assert "SLS_DEPLOY_CACHE" in finding.fix


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    finding = check_disk("cache", tmp_path / "not" / "yet")
    assert finding.state == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_an_engine_runs_on_this_gpu(tmp_path: Path) -> None:
    run = examine(tmp_path).abilities[-1]
    assert run.works, run.says
