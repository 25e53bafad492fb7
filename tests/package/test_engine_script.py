"""The script for engines: checked statically, and run with doubles of driver and TensorRT."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import read_manifest
from sls_deploy.engine.stage import build_engines
from sls_deploy.package.stage import package_run
from sls_deploy.run import Run
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.engine.vendor_calls import check_source
from tests.package.networks import BUILD, SCALE
from tests.package.pictures import expected, noise, write_ppm

SCRIPT = Path(__file__).parents[2] / "sls_deploy" / "package" / "templates" / "run_tensorrt.py"
CALLED = {
    "ICudaEngine.create_execution_context",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.get_tensor_shape",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address",
    "Logger",
    "Logger.WARNING",
    "Runtime",
    "Runtime.deserialize_cuda_engine",
}
"""What run_tensorrt.py uses of the vendor's module."""

Call = Callable[..., str]


def test_what_the_engine_script_calls_is_in_the_installed_module() -> None:
    module = BACKENDS["tensorrt_rtx"].load()
    if module is None:
        pytest.skip("needs tensorrt_rtx (extra 'cpu')")
    found = check_source(SCRIPT.read_text(), module)
    assert found.problems == []
    assert {str(use) for use in found.uses} == CALLED
    theirs = set(dir(module.ICudaEngine)) | set(dir(module.IExecutionContext))
    assert {name for name in found.loose & theirs if not name.startswith("__")} == set()


class Doubles:
    """A GPU whose memory is the host's, and an engine that ONNX Runtime computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
        self.trt: Any = BACKENDS["tensorrt_rtx"].load()
        self.graph = graph
        self.loads = True
        self.starts = True
        """Whether TensorRT's runtime can be made, which takes a GPU that works."""
        self.refuses = 0
        """CUDA error of every copy; 0 for none."""
        self.memory: list[Any] = []
        module = SimpleNamespace(Logger=self.trt.Logger, Runtime=self._start)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: self)

    def cuMemAlloc_v2(self, pointer: Any, size: ctypes.c_size_t) -> int:  # noqa: N802
        self.memory.append(ctypes.create_string_buffer(size.value))
        pointer._obj.value = ctypes.addressof(self.memory[-1])
        return 0

    def cuMemcpyHtoD_v2(self, target: Any, source: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)
        return self.refuses

    def cuMemcpyDtoH_v2(self, target: Any, source: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)
        return self.refuses

    def _start(self, logger: Any) -> Any:
        if not self.starts:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, content: bytes) -> Any:
        return (
            SimpleNamespace(create_execution_context=lambda: _Context(self.graph))
            if (self.loads)
            else None
        )


class _Context:
    def __init__(self, graph: Path) -> None:
        self._runner = OnnxRunner(graph)
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "input"
        self._shape = shape
        largest = BUILD.max_shape
        return all(side <= most for side, most in zip(shape, largest, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "output"
        batch, _, height, width = self._shape
        return (batch, 3, SCALE * height, SCALE * width)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0  # the one whose work every copy waits for
        output = self._runner.run(self._array("input", self._shape))
        self._array("output", self.get_tensor_shape("output"))[...] = output
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        memory = (ctypes.c_float * count).from_address(self._addresses[name])
        return np.ctypeslib.as_array(memory).reshape(shape)


def test_the_engine_script_fills_runs_and_cuts_back(
    with_engine: Path, script: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles = Doubles(monkeypatch, with_engine / "model.fp16.onnx")
    run, plan = with_engine / "run_tensorrt.py", with_engine / "sm86-fp16.plan"
    source = write_ppm(tmp_path / "in.ppm", noise(9, 14))
    assert script(run, plan, source, tmp_path / "out.npy") == ""
    wanted = expected(with_engine / "model.fp16.onnx", noise(9, 14))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=1e-6)
    assert len(doubles.memory) == 2


def test_the_engine_script_says_why_it_ends(
    with_engine: Path, script: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles = Doubles(monkeypatch, with_engine / "model.fp16.onnx")
    package = tmp_path / "package"
    shutil.copytree(with_engine, package)
    run, plan, out = package / "run_tensorrt.py", package / "sm86-fp16.plan", tmp_path / "out.npy"
    large = write_ppm(tmp_path / "large.ppm", noise(8, 65))
    source = write_ppm(tmp_path / "in.ppm", noise(8, 8))
    assert script(run, plan, source).startswith("Restores a picture")
    assert "to [4, 3, 64, 64]: cut the picture into tiles" in script(run, plan, large, out)
    doubles.refuses = 700
    assert script(run, plan, source, out).endswith("sm86-fp16.plan cannot run here (error 700)")
    with plan.open("ab") as file:
        file.write(b"\0")
    assert script(run, plan, source, out).endswith(
        "sm86-fp16.plan is not the engine that its manifest describes"
    )
    assert not out.exists()


def test_an_engine_that_cannot_start_here_says_what_it_needs(
    with_engine: Path, script: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = with_engine / "run_tensorrt.py", with_engine / "sm86-fp16.plan"
    source, out = write_ppm(tmp_path / "in.ppm", noise(8, 8)), tmp_path / "out.npy"
    version = read_manifest(plan.with_suffix(".json")).backend_version
    needs = f"{plan} needs tensorrt_rtx {version}, sm86 and a driver: "
    doubles = Doubles(monkeypatch, with_engine / "model.fp16.onnx")
    doubles.loads = False
    assert script(run, plan, source, out) == f"{needs}it does not load"
    doubles.starts = False
    assert script(run, plan, source, out).startswith(f"{needs}pybind11::init()")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert script(run, plan, source, out).startswith(f"{needs}import of tensorrt_rtx")

    def no_driver(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert script(run, plan, source, out).startswith(f"{needs}libcuda.so.1: cannot open")
    assert not out.exists()


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_engine_script_runs_on_a_gpu(small: Run, tmp_path: Path, backend: str) -> None:
    if BACKENDS[backend].load() is None:
        pytest.skip(f"{backend} is not installed")
    shutil.copytree(small.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    update = {"backend": backend, "architectures": (gpu_architecture(),)}
    build_engines(run, [0.5], BUILD.model_copy(update=update))
    out = tmp_path / "out"
    package_run(run, [0.5], "folder", out)
    image = noise(9, 14)
    source = write_ppm(tmp_path / "in.ppm", image)
    subprocess.run(
        [sys.executable, out / "run_tensorrt.py", next(out.glob("*.plan")), source, out / "o.npy"],
        check=True,
    )
    wanted = expected(out / "model.fp16.onnx", image)
    np.testing.assert_allclose(np.load(out / "o.npy"), wanted, atol=1e-2)
