"""An execution context that stays at one shape of input, with its buffers and its CUDA graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sls_deploy.engine.vendor_log import VendorLog
from sls_deploy.errors import OutOfMemory, SlsError, reason

if TYPE_CHECKING:
    import torch
    from tensorrt import ICudaEngine, IExecutionContext

_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
}
"""PyTorch's names of the vendor's types of tensors: of pictures, and of single layers in fp16."""
_NO_MEMORY = re.compile(r"out[ _]?of[ _]?memory", re.IGNORECASE)
"""What the vendor's log says where GPU memory ran out."""
_BRIGHTEST = 127
"""Largest whole number in random input of whole numbers: every type holds it."""


@dataclass(frozen=True)
class EngineIo:
    """The one input and the one output of an engine."""

    source: str
    """Name of the input."""
    source_type: torch.dtype
    """Type of its elements."""
    target: str
    """Name of the output."""
    target_type: torch.dtype
    """Type of its elements."""


def engine_io(trt: Any, engine: ICudaEngine, where: str) -> EngineIo:
    """What goes into an engine and comes out of it.

    Raises:
        SlsError: it has not one input and one output, or one of a type that no picture has.
    """
    import torch

    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    mode: Any = trt.TensorIOMode
    sources = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
    targets = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
    if len(sources) != 1 or len(targets) != 1:
        what = f"has {len(sources)} inputs and {len(targets)} outputs, not one of each"
        raise SlsError(what, where)
    types = [str(engine.get_tensor_dtype(name).name) for name in (*sources, *targets)]
    if unknown := [name for name in types if name not in _TYPES]:
        raise SlsError(f"has tensors of type {unknown[0]}, which no picture has", where)
    source_type, target_type = (getattr(torch, _TYPES[name]) for name in types)
    return EngineIo(sources[0], source_type, targets[0], target_type)


def refused(what: str, log: VendorLog, where: str) -> SlsError:
    """The error for something that the vendor refused, by its log: `OutOfMemory` if it was that."""
    told = log.first_error()
    kind = OutOfMemory if _NO_MEMORY.search(told) else SlsError
    return kind(f"{what}: {told}", where)


class EngineContext:
    """A context at one shape. Its buffers and its memory stay, so that a CUDA graph holds.

    All calls are to be made while `stream` is PyTorch's current stream.

    Args:
        context: the vendor's context; nothing is set but its device memory.
        io: tensors of its engine.
        log: what the vendor says.
        stream: where work is queued.
        where: what errors call the engine.
    """

    source: torch.Tensor
    """The input's buffer on the GPU."""
    target: torch.Tensor
    """The output's buffer on the GPU."""

    def __init__(
        self,
        context: IExecutionContext,
        io: EngineIo,
        log: VendorLog,
        stream: torch.cuda.Stream,
        where: str,
    ) -> None:
        self._context, self._io, self._log = context, io, log
        self._stream, self._where = stream, where
        self._graph: torch.cuda.CUDAGraph | None = None

    def bind(
        self, source: torch.Tensor, allocate: Callable[[tuple[int, ...]], torch.Tensor]
    ) -> None:
        """Set the shape of the input and the addresses of both buffers.

        Args:
            source: buffer of the input, of its shape.
            allocate: makes the output's buffer, of the shape that it is given.

        Raises:
            SlsError: the engine does not take that shape.
        """
        shape = tuple(source.shape)
        self._log.errors.clear()
        done = self._context.set_input_shape(self._io.source, shape)
        if done:
            sizes = self._context.get_tensor_shape(self._io.target)
            target = allocate(tuple(sizes[axis] for axis in range(len(sizes))))
            done = self._context.set_tensor_address(self._io.source, source.data_ptr())
            done = done and self._context.set_tensor_address(self._io.target, target.data_ptr())
            self.source, self.target = source, target
        if not done:
            what = f"takes no input of shape {list(shape)}: {self._log.first_error()}"
            raise SlsError(what, self._where)

    def launch(self) -> None:
        """Queue one run; its graph is replayed if one was recorded.

        Raises:
            SlsError: the vendor refused.
        """
        if self._graph is not None:
            self._graph.replay()
            return
        self._log.errors.clear()
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            what = f"failed on input of shape {list(self.source.shape)}"
            raise refused(what, self._log, self._where)

    def record(self) -> str:
        """Record a run as a CUDA graph, for `launch` to replay; one run must have gone before.

        Returns:
            Why there is none, or '' if there is one.
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        try:
            recorder = torch.cuda.graph(
                graph, stream=self._stream, capture_error_mode="thread_local"
            )
            with recorder:
                self.launch()
        except (RuntimeError, SlsError) as error:
            # A recording that failed leaves the context usable (TensorRT's guide), but PyTorch
            # may not have put the current stream back.
            torch.cuda.set_stream(self._stream)
            # A run that the vendor refused ends the recording with an error that tells nothing.
            told = self._log.first_error() if self._log.errors else reason(error)
            return f"CUDA graphs are not used, because none could be recorded ({told})"
        self._graph = graph
        return ""

    def fill(self) -> None:
        """Put random numbers into the input: 0..1, or 0..127 where it takes whole numbers."""
        import torch

        noise = torch.rand(self.source.shape, device=self.source.device)
        self.source.copy_(noise if self.source.is_floating_point() else noise * _BRIGHTEST)

    def attach(self, profiler: Any) -> None:
        """Have the time of every layer reported at each further run, which then waits."""
        self._context.profiler = profiler
