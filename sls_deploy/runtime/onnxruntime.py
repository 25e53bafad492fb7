"""Runs an ONNX file with ONNX Runtime, on the CPU or on the first visible GPU."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import OutOfMemory, SlsError
from sls_deploy.runtime.byte_pictures import from_bytes, to_bytes
from sls_deploy.runtime.onnx_profile import profile_session
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch, check_pictures

Provider = Literal["cpu", "cuda"]
"""What computes: the CPU, or the first visible GPU."""

_BYTES = "tensor(uint8)"
_INPUTS = ([("input", "tensor(float)", 4)], [("input", _BYTES, 4)])
_FATAL = 4
"""ONNX Runtime's log level that prints nothing: its errors arrive as exceptions anyway."""
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_NO_MEMORY = re.compile(
    r"bad_alloc|bad allocation|failed to allocate memory|out[ _]of[ _]memory|CUDA failure 2\b"
    r"|STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
"""What ONNX Runtime says where memory ran out: its arena, C++, CUDA, cuBLAS and cuDNN."""


class OnnxRunner:
    """Runs an exported graph with one provider, whatever precision it has inside.

    In an fp16 graph the weights are rounded but most activations are not on the CPU: the provider
    computes in fp32 and removes the casts between operators (microsoft/onnxruntime 8787). A graph
    from bytes to bytes gets pictures rounded to 8 bits, and what it gives is divided by 255.

    Args:
        model: an ONNX file, or the bytes of one, with input 'input' and output 'output', both NCHW
            float32 or both NHWC uint8.
        name: what reports call the runner; the file's name if it is empty.
        threads: threads inside one operator on the CPU; 0 means one for each core.
        provider: what computes.
        sizes_vary: whether pictures come in many sizes: on a GPU, kernels are then chosen by rule
            and not by trying all of them for each size.

    Raises:
        SlsError: ONNX Runtime is not installed, it cannot use the GPU, or the file is no graph of
            that form.
    """

    note = ""
    """Nothing is to be known of it; see `Runner.note`."""

    def __init__(
        self,
        model: Path | bytes,
        name: str = "",
        threads: int = 0,
        provider: Provider = "cpu",
        *,
        sizes_vary: bool = False,
    ) -> None:
        self.name = name or (model.name if isinstance(model, Path) else "ONNX Runtime")
        self._model, self._threads, self._provider = model, threads, provider
        self._session: Any = open_session(model, threads, provider, sizes_vary=sizes_vary)

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        outputs = [
            run_session(self._session, ["output"], {"input": batch}, self.name)[0]
            for batch in self._batches(pictures)
        ]
        output = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        return from_bytes(output) if self._in_bytes else output

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch; see `Runner.stopwatch`.

        The clock of the host measures it, on a GPU too, so that there the launching of kernels is
        in the time. Buffers stay on the device.
        """
        session = self._session
        run_all = [self._bound(batch) for batch in self._batches(pictures)]

        def run_once() -> float:
            if self._session is not session:
                raise _closed(self.name)
            start = time.perf_counter()
            for run in run_all:
                run()
            return (time.perf_counter() - start) * 1e3

        return run_once

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        """Time each node; see `Runner.profile`. None on a GPU.

        There ONNX Runtime only tells how long the host took to launch a node.
        """
        batches = self._batches(pictures)
        if self._provider == "cuda":
            return None

        def run(session: Any) -> None:
            for batch in batches:
                run_session(session, ["output"], {"input": batch}, self.name)

        def opened(prefix: str) -> Any:
            return open_session(self._model, self._threads, self._provider, prefix)

        return profile_session(opened, run, repeats)

    def close(self) -> None:
        """Let go of the session and its memory."""
        self._session = None

    @property
    def _in_bytes(self) -> bool:
        return bool(self._session.get_inputs()[0].type == _BYTES)

    def _batches(self, pictures: Pictures) -> list[NDArray[Any]]:
        """What the graph is fed with, one after the other: it may take single pictures only."""
        if self._session is None:
            raise _closed(self.name)
        pictures = check_pictures(pictures, self.name)
        given: NDArray[Any] = to_bytes(pictures) if self._in_bytes else pictures
        alone = self._session.get_inputs()[0].shape[0] == 1
        return np.split(given, len(given)) if alone else [given]

    def _bound(self, batch: NDArray[Any]) -> Callable[[], None]:
        """A function that runs a batch once, from buffers on the device to buffers there."""
        onnxruntime, session = load_onnxruntime(), self._session
        output = run_session(session, ["output"], {"input": batch}, self.name)[0]
        values = (
            onnxruntime.OrtValue.ortvalue_from_numpy(array, self._provider, 0)
            for array in (batch, output)
        )
        binding = session.io_binding()
        binding.bind_ortvalue_input("input", next(values))
        binding.bind_ortvalue_output("output", next(values))

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


def open_session(
    model: Path | bytes,
    threads: int = 0,
    provider: Provider = "cpu",
    profile: str = "",
    *,
    sizes_vary: bool = False,
) -> Any:
    """Load a graph into ONNX Runtime, quietly.

    Args:
        model: a file, or the bytes of one.
        threads: threads inside one operator on the CPU; 0 means one for each core.
        provider: what computes; operators that CUDA lacks run on the CPU. There TF32 is off, as in
            our engines: ONNX Runtime would else round fp32 to ten bits (its pull request 19426).
        profile: beginning of the path of the file that the times of all nodes are written to;
            empty to write none.
        sizes_vary: see `OnnxRunner`.

    Returns:
        An `onnxruntime.InferenceSession` with an input 'input', float32 or uint8, and an output
        'output'.

    Raises:
        SlsError: ONNX Runtime is not installed, it cannot use the GPU, or the file is no graph of
            that form; `OutOfMemory` if memory ran out.
    """
    onnxruntime = load_onnxruntime()
    where = str(model) if isinstance(model, Path) else "the graph"
    if isinstance(model, Path) and not model.is_file():
        raise SlsError("no such file", where, "`sls-deploy export` writes one.")
    if provider == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        what = "the installed one cannot use a GPU: it has no CUDA provider"
        fix = "`pip uninstall onnxruntime`, then `pip install 'sls-deploy[gpu]'`."
        raise SlsError(what, "ONNX Runtime", fix)
    if provider == "cuda":
        with redirect_stdout(StringIO()):  # it prints what it misses; the session tells us
            onnxruntime.preload_dlls()  # CUDA and cuDNN out of the packages beside it
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    # ONNX Runtime 1.32 would turn fp16 biases in front of a quantiser into overflowing integers.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = str(model) if isinstance(model, Path) else model
    wanted = _CUDA if provider == "cuda" else _CPU
    on_cuda = {"use_tf32": "0"}
    if sizes_vary:
        on_cuda["cudnn_conv_algo_search"] = "HEURISTIC"
    providers = [(_CUDA, on_cuda), _CPU] if provider == "cuda" else [_CPU]
    try:
        session = onnxruntime.InferenceSession(source, options, providers)
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        if _ran_out(error):
            fix = "Close other programs, or take a machine with more of it."
            raise OutOfMemory("memory ran out while it was loaded", where, fix) from None
        raise SlsError(f"cannot be loaded by ONNX Runtime ({_first_line(error)})", where) from None
    if session.get_providers()[0] != wanted:
        what = "its CUDA provider cannot be loaded here, so it would run on the CPU"
        raise SlsError(what, "ONNX Runtime", "`sls-deploy doctor` says what is missing.")
    inputs = [(node.name, node.type, len(node.shape)) for node in session.get_inputs()]
    names = [node.name for node in session.get_outputs()]
    if inputs not in _INPUTS or "output" not in names:
        what = "has no picture 'input', float32 NCHW or uint8 NHWC, and output 'output'"
        raise SlsError(what, where, "Take a file that `sls-deploy export` wrote.")
    return session


def load_onnxruntime() -> Any:
    """The module of ONNX Runtime.

    Raises:
        SlsError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        fix = "Install it with `pip install 'sls-deploy[cpu]'`."
        raise SlsError("is not installed", "ONNX Runtime", fix) from None
    return onnxruntime


def run_session(
    session: Any, outputs: list[str], feeds: dict[str, NDArray[Any]], where: str
) -> list[Any]:
    """Compute the named outputs of a session of `open_session`.

    Raises:
        SlsError: ONNX Runtime cannot run the graph on that input; `OutOfMemory` if memory ran out.
    """
    try:
        return list(session.run(outputs, feeds))
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        shapes = ", ".join(str(list(array.shape)) for array in feeds.values())
        if _ran_out(error):
            what = f"ran out of memory on pictures of shape {shapes}"
            raise OutOfMemory(what, where, "Run smaller batches or tiles.") from None
        what = f"failed on pictures of shape {shapes} ({_first_line(error)})"
        raise SlsError(what, where, "Try a larger picture, or export the network again.") from None


def _closed(name: str) -> SlsError:
    return SlsError("was closed", name, "Make a new runner.")


def _ran_out(error: Exception) -> bool:
    """Whether an error of ONNX Runtime's tells that memory ran out."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
