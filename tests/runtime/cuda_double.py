"""Stands in for CUDA, and for what of TensorRT needs it: records the calls and doubles pictures.

Enumerations, the logger and the profiler are those of the installed tensorrt_rtx. What stands in
for a class of it may only have methods that the class has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import BACKENDS

LIMIT = 64
"""Largest side that the engine takes."""
KERNELS = b"compiled kernels"
OLD_DRIVER = "CUDA initialization failure with error: 35"
STREAM = 7
"""Handle of the one stream."""


class CudaDouble:
    """A GPU with one engine, which doubles its input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.loads = True
        """Whether the engine can be loaded."""
        self.starts = True
        """Whether the vendor's runtime can be made."""
        self.freed: list[str] = []
        """What of the vendor's objects is no longer alive, in that order."""
        self.records = True
        """Whether a run can be recorded as a graph."""
        self.refusal = ""
        """What the vendor says when it refuses a run that is to be recorded; empty if it takes it.
        """
        self.dtype = "FLOAT"
        self.trt: Any = BACKENDS["tensorrt_rtx"].load()
        self.buffers: dict[int, torch.Tensor] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.configurations: list[_Configuration] = []
        self.profiled: list[tuple[str, float]] = [("conv", 2.0), ("shuffle", 1.0)]
        self.restored: list[bytes] = []
        empty = torch.empty

        def on_the_cpu(shape: Any, dtype: torch.dtype, device: str) -> torch.Tensor:
            assert device == "cuda"
            made = empty(shape, dtype=dtype)
            self.buffers[made.data_ptr()] = made
            return made

        cuda = {
            "is_available": lambda: True,
            "Stream": lambda: SimpleNamespace(
                cuda_stream=STREAM, synchronize=lambda: self.calls.append("synchronize")
            ),
            "stream": self._current,
            "set_stream": lambda stream: self.calls.append("set_stream"),
            "Event": self._event,
            "CUDAGraph": lambda: _Graph(self),
            "graph": self._record,
        }
        for name, value in cuda.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "empty", on_the_cpu)

    def backend(self, name: str) -> Backend:
        """The backend of that name, whose engines run here."""
        double, real = self, BACKENDS[name]

        class Module:
            """The vendor's module but for the class that needs a GPU."""

            def __getattr__(self, attribute: str) -> Any:
                return getattr(double.trt, attribute)

            def Runtime(self, logger: Any) -> _Runtime:  # noqa: N802
                if not double.starts:
                    double.say(logger, OLD_DRIVER)
                    raise TypeError("factory function returned nullptr")
                return _Runtime(double, logger)

        class OnDouble(Backend):
            def load(self) -> Any:
                return Module()

        return OnDouble(**{field: getattr(real, field) for field in real.__dataclass_fields__})

    def say(self, logger: Any, error: str) -> None:
        """Log an error as the vendor does."""
        logger.log(self.trt.ILogger.Severity.ERROR, error)

    def watch(self, made: object, name: str) -> None:
        """Note when an object is freed."""
        weakref.finalize(made, self.freed.append, name)

    def take(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    @contextmanager
    def _current(self, stream: Any) -> Iterator[None]:
        assert stream.cuda_stream == STREAM
        yield

    @contextmanager
    def _record(self, graph: _Graph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert stream.cuda_stream == STREAM
        self.calls.append("begin recording")
        self.recording = graph.runs
        try:
            yield
        finally:
            self.recording = None
            self.calls.append("end recording")
            if self.refusal:  # in place of whatever was raised inside, as PyTorch does
                raise RuntimeError("operation failed due to a previous error during capture")
        if not self.records:
            raise RuntimeError("operation not permitted when stream is capturing")

    def _event(self, *, enable_timing: bool) -> Any:
        assert enable_timing

        def record(stream: Any) -> None:
            assert stream.cuda_stream == STREAM
            self.calls.append("event")

        return SimpleNamespace(
            record=record,
            synchronize=lambda: self.calls.append("wait"),
            elapsed_time=lambda end: 1.5,
        )


class _Graph:
    def __init__(self, double: CudaDouble) -> None:
        self._double = double
        self.runs: list[Callable[[], None]] = []

    def replay(self) -> None:
        self._double.calls.append("replay")
        for run in self.runs:
            run()


class _Runtime:
    def __init__(self, double: CudaDouble, logger: Any) -> None:
        self._double, self._logger = double, logger
        self.engine_host_code_allowed = False
        double.watch(self, "runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        self._double.calls.append(f"load, host code {self.engine_host_code_allowed}")
        return _Engine(self._double, self._logger) if self._double.loads else None


class _Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 3 * 2**20

    def __init__(self, double: CudaDouble, logger: Any) -> None:
        self._double, self._logger = double, logger
        double.watch(self, "engine")

    def get_tensor_name(self, index: int) -> str:
        return ("input", "output")[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._double.trt.TensorIOMode
        return mode.INPUT if name == "input" else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._double.trt.DataType, self._double.dtype)

    def create_execution_context(
        self, strategy: Any = None, *, runtime_config: Any = None
    ) -> _Context:
        chosen = strategy if runtime_config is None else runtime_config.allocation
        assert chosen == self._double.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._double.calls.append("context")
        return _Context(self._double, self._logger)

    def create_runtime_config(self) -> Any:
        made = _Configuration(self._double)
        self._double.configurations.append(made)
        return made

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: f"told as {form.name}")


class _Configuration:
    """What a context is made with; `allocation` and `cache` are what was set."""

    def __init__(self, double: CudaDouble) -> None:
        self._double = double
        self.allocation: Any = None
        self.cache: Any = None
        self.cuda_graph_strategy: Any = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None

    def create_runtime_cache(self) -> _Cache:
        return _Cache(self._double)

    def set_runtime_cache(self, cache: _Cache) -> None:
        self.cache = cache

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.allocation = strategy


class _Cache:
    def __init__(self, double: CudaDouble) -> None:
        self.deserialize = double.restored.append
        double.watch(self, "cache")

    def serialize(self) -> bytes:
        return KERNELS


class _Context:
    def __init__(self, double: CudaDouble, logger: Any) -> None:
        self._double, self._logger = double, logger
        double.watch(self, "context")
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.profiler: Any = None

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._double.buffers[memory].numel() == size
        self._double.calls.append("memory")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "input"
        self._double.calls.append(f"shape {'x'.join(map(str, shape))}")
        self._shape = shape
        return max(shape) <= LIMIT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "output"
        return self._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._double.calls.append(f"address of {name}")
        self._addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == STREAM
        return self._double.records

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        self._double.calls.append("execute")
        if self._double.recording is not None and self._double.refusal:
            self._double.say(self._logger, self._double.refusal)
            return False
        source, target = (self._double.buffers[self._addresses[n]] for n in ("input", "output"))

        def run() -> None:
            target.copy_(source * 2)

        if self._double.recording is None:
            run()
        else:
            self._double.recording.append(run)
        if self.profiler is not None:
            for layer, ms in self._double.profiled:
                self.profiler.report_layer_time(layer, ms)
        return True


def kernels_of(folder: Path) -> Path:
    """A file of kernels of an earlier run."""
    path = folder / "kernels" / "engine"
    path.parent.mkdir()
    path.write_bytes(b"older kernels")
    return path


def vendor_names() -> dict[type, str]:
    """Classes that stand in for one of the vendor's, with its name."""
    return {
        _Runtime: "Runtime",
        _Engine: "ICudaEngine",
        _Configuration: "IRuntimeConfig",
        _Cache: "IRuntimeCache",
        _Context: "IExecutionContext",
    }
