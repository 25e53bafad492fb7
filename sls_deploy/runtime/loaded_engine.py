"""An engine of either backend on the first visible GPU: TensorRT's calls stand here and below."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.vendor_log import VendorLog
from sls_deploy.errors import OutOfMemory, SlsError, reason
from sls_deploy.runtime.engine_context import EngineContext, EngineIo, engine_io, refused
from sls_deploy.runtime.rtx_kernels import RtxKernels

if TYPE_CHECKING:
    import torch
    from tensorrt import EngineInspector, ICudaEngine, IExecutionContext, Runtime

_SHAPES_KEPT = 4
"""Shapes whose buffers and CUDA graph are kept; a tiler needs few, a video one."""


class LoadedEngine:
    """An engine with buffers that stay. Nothing is asked about it: callers check its manifest.

    Every shape of input gets an execution context of its own, all in one block of device memory:
    NVIDIA's advice for CUDA graphs, which are bound to one shape and to its addresses. Work is
    queued on a stream of its own, because TensorRT synchronises more than needed on the default
    one, and only one shape runs at a time.

    Args:
        backend: the vendor's module that built the engine.
        plan: the engine.
        where: what errors call it, such as its path.
        graphs: whether to launch CUDA graphs: recorded by PyTorch for `tensorrt`, by the library
            itself for `tensorrt_rtx`.
        host_code: whether the plan may bring code for the host with it, as plans do that later
            versions may load. Allow it for trusted plans only.
        kernels: file in which `tensorrt_rtx` keeps from run to run what it compiles at loading;
            None keeps nothing. The file is read at once and written by `close`.

    Raises:
        SlsError: the module or a PyTorch with CUDA is missing, the module cannot start here, such
            as with an old driver, or the engine cannot be loaded.
    """

    def __init__(
        self,
        backend: Backend,
        plan: bytes,
        where: str,
        *,
        graphs: bool = True,
        host_code: bool = False,
        kernels: Path | None = None,
    ) -> None:
        require_cuda(where)
        import torch

        trt: Any = backend.load()
        if trt is None:
            fix = f"Install it with `pip install 'sls-deploy[{backend.extra}]'`."
            raise SlsError(f"needs {backend.name}, which is not installed", where, fix)
        self._trt, self._where, self._graphs = trt, where, graphs
        self._log = VendorLog(trt)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._rtx = RtxKernels(trt, kernels) if backend.name == "tensorrt_rtx" else None
        try:
            runtime: Runtime = trt.Runtime(self._log.logger)
        except TypeError:  # there is none, for a reason that only the log knows
            what = f"{backend.name} cannot start here: {self._log.first_error()}"
            raise SlsError(what, where, "`sls-deploy doctor` says what is missing.") from None
        runtime.engine_host_code_allowed = host_code
        engine: ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise SlsError(f"cannot be loaded: {self._log.first_error()}", where)
        self._runtime, self._engine = runtime, engine
        self._io: EngineIo = engine_io(trt, engine, where)
        self._scratch = self._allocate((engine.device_memory_size_v2,), torch.uint8)
        self.note = ""
        """Why CUDA graphs are not used although they were asked for; empty otherwise."""
        self._ready: OrderedDict[tuple[int, ...], EngineContext] = OrderedDict()
        self._closed = False

    def run(self, array: NDArray[Any]) -> NDArray[Any]:
        """Run the engine once.

        Args:
            array: as the engine's input lies, such as NCHW float32 or NHWC uint8.

        Returns:
            The output, as the engine gives it.

        Raises:
            SlsError: the engine was closed, takes another type or no such shape; `OutOfMemory` if
                GPU memory ran out.
        """
        import torch

        given = torch.from_numpy(np.ascontiguousarray(array))
        if given.dtype != self._io.source_type:
            what = f"takes {self._io.source_type}, not {given.dtype}"
            raise SlsError(what, self._where)
        try:
            context = self._context(tuple(array.shape))
            with torch.cuda.stream(self._stream):
                context.source.copy_(given)
                context.launch()
                result: NDArray[Any] = context.target.cpu().numpy()
        except OutOfMemory:
            self._make_room()
            raise
        except torch.cuda.OutOfMemoryError:
            self._make_room()
            what = f"ran out of GPU memory on an input of {list(array.shape)}"
            raise OutOfMemory(what, self._where, "Run smaller batches or tiles.") from None
        except RuntimeError as error:  # of CUDA; after some of them nothing runs any more
            fix = "Start again; if it fails again, `sls-deploy doctor` looks at the GPU."
            raise SlsError(f"failed on the GPU ({reason(error)})", self._where, fix) from None
        return result

    def stopwatch(self, shape: tuple[int, ...]) -> Callable[[], float]:
        """A function that runs the engine once on random input that lies on the GPU.

        It returns the milliseconds between two CUDA events around the work, so nothing is copied
        to or from the host in between. Another run goes before it, so that the GPU is still busy
        when the host queues the one that counts, and does not wait for the host between the events.

        Raises:
            SlsError: the engine was closed or takes no such shape; `OutOfMemory` if GPU memory ran
                out.
        """
        import torch

        stream = self._stream
        with torch.cuda.stream(stream):
            self._context(shape).fill()

        def run_once() -> float:
            # Asked for each time: a stopwatch that outlives `close` must keep no context alive.
            context = self._context(shape)
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                context.launch()
                start.record(stream)
                context.launch()
                end.record(stream)
            end.synchronize()
            return float(start.elapsed_time(end))

        return run_once

    def profile(self, shape: tuple[int, ...], repeats: int) -> dict[str, float]:
        """Median milliseconds of every layer, by the vendor's names, in the order of execution.

        Without CUDA graphs, and slower as a whole than `stopwatch` says: every layer is timed.

        Args:
            shape: of the input.
            repeats: how often the engine runs, at least 1.

        Raises:
            SlsError: the engine was closed or takes no such shape; `OutOfMemory` if GPU memory ran
                out.
        """
        import torch

        self._check_open()
        times: dict[str, list[float]] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        with torch.cuda.stream(self._stream):
            context = self._new_context(shape, graphs=False)
            context.launch()  # kernels are loaded, and for RTX compiled, at the first run
            profiler: Any = Profiler()
            context.attach(profiler)
            for _ in range(repeats):
                context.launch()
            self._stream.synchronize()
        return {name: median(values) for name, values in times.items()}

    def information(self) -> str:
        """What the vendor's inspector tells of every layer, as JSON.

        Raises:
            SlsError: the engine was closed.
        """
        self._check_open()
        inspector: EngineInspector = self._engine.create_engine_inspector()
        form: Any = self._trt.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(form))

    def close(self) -> None:
        """Let go of the engine and its GPU memory; keep the kernels that were compiled."""
        if self._closed:
            return
        self._closed = True
        self._stream.synchronize()
        if self._rtx is not None:
            self._rtx.keep()
        # Contexts go before the kernels that they run (NVIDIA, "Working with Runtime Cache") and
        # before their engine, and the engine before its runtime.
        self._ready.clear()
        del self._rtx, self._engine, self._runtime, self._scratch

    def _make_room(self) -> None:
        """Let go of all shapes; the vendor's library cannot use what PyTorch keeps for later."""
        import torch

        self._ready.clear()
        torch.cuda.empty_cache()

    def _check_open(self) -> None:
        if self._closed:
            raise SlsError("was closed", self._where, "Load it again.")

    def _context(self, shape: tuple[int, ...]) -> EngineContext:
        """What is ready for a shape: kept from before, or made now."""
        import torch

        self._check_open()
        if shape in self._ready:
            self._ready.move_to_end(shape)
            return self._ready[shape]
        with torch.cuda.stream(self._stream):
            context = self._new_context(shape, graphs=self._graphs and not self.note)
        self._ready[shape] = context
        if len(self._ready) > _SHAPES_KEPT:
            self._ready.popitem(last=False)
        return context

    def _new_context(self, shape: tuple[int, ...], *, graphs: bool) -> EngineContext:
        made: IExecutionContext | None
        if self._rtx is not None:
            config = self._rtx.configuration(self._engine, graphs=graphs)
            made = self._engine.create_execution_context(runtime_config=config)
        else:
            strategy: Any = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            made = self._engine.create_execution_context(strategy)
        if made is None:
            raise refused("cannot be made ready", self._log, self._where)
        made.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        context = EngineContext(made, self._io, self._log, self._stream, self._where)
        source = self._allocate(shape, self._io.source_type)
        context.bind(source, lambda size: self._allocate(size, self._io.target_type))
        context.fill()
        # What a new shape changes inside TensorRT waits for the next run, which must not be
        # recorded; see "CUDA Graphs" in its guide to performance.
        context.launch()
        if graphs and self._rtx is None:
            self.note = context.record()
        elif graphs and self._rtx is not None:
            self.note = self._rtx.no_graphs(made, self._stream.cuda_stream)
        return context

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        import torch

        try:
            return torch.empty(shape, dtype=dtype, device="cuda")
        except torch.cuda.OutOfMemoryError:
            what = f"ran out of GPU memory for a tensor of {list(shape)}"
            raise OutOfMemory(what, self._where, "Run smaller batches or tiles.") from None


def require_cuda(where: str) -> None:
    """Refuse a PyTorch that sees no GPU.

    Raises:
        SlsError: it sees none; says what to install.
    """
    import torch

    if not torch.cuda.is_available():
        fix = "Install a PyTorch with CUDA support from pytorch.org."
        raise SlsError("needs a PyTorch that sees the GPU, and this one does not", where, fix)
