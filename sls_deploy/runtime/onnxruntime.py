"""Runs an ONNX file on the CPU with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.runtime.byte_pictures import from_bytes, to_bytes
from sls_deploy.runtime.runner import Pictures, check_pictures

_BYTES = "tensor(uint8)"
_INPUTS = ([("input", "tensor(float)", 4)], [("input", _BYTES, 4)])
_FATAL = 4
"""ONNX Runtime's log level that prints nothing: its errors arrive as exceptions anyway."""


class OnnxRunner:
    """Runs an exported graph with the CPU provider, whatever precision it has inside.

    In an fp16 graph the weights are rounded but most activations are not: the provider computes in
    fp32 and removes the casts between operators (microsoft/onnxruntime 8787). A graph from bytes to
    bytes gets pictures rounded to 8 bits, and what it gives is divided by 255.

    Args:
        model: an ONNX file, or the bytes of one, with input 'input' and output 'output', both NCHW
            float32 or both NHWC uint8.
        name: what reports call the runner; the file's name if it is empty.
        threads: threads inside one operator; 0 means one for each core.

    Raises:
        SlsError: ONNX Runtime is not installed, or the file is no graph of that form.
    """

    def __init__(self, model: Path | bytes, name: str = "", threads: int = 0) -> None:
        self.name = name or (model.name if isinstance(model, Path) else "ONNX Runtime")
        self._session: Any = open_session(model, threads)

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        if self._session is None:
            raise SlsError("was closed", self.name, "Make a new runner.")
        pictures = check_pictures(pictures, self.name)
        source = self._session.get_inputs()[0]
        alone = source.shape[0] == 1
        in_bytes = source.type == _BYTES
        given = to_bytes(pictures) if in_bytes else pictures
        outputs = [
            run_session(self._session, ["output"], {"input": batch}, self.name)[0]
            for batch in (np.split(given, len(given)) if alone else [given])
        ]
        output = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        return from_bytes(output) if in_bytes else output

    def close(self) -> None:
        """Let go of the session and its memory."""
        self._session = None


def open_session(model: Path | bytes, threads: int = 0) -> Any:
    """Load a graph into ONNX Runtime on the CPU, quietly.

    Args:
        model: a file, or the bytes of one.
        threads: threads inside one operator; 0 means one for each core.

    Returns:
        An `onnxruntime.InferenceSession` with an input 'input', float32 or uint8, and an output
        'output'.

    Raises:
        SlsError: ONNX Runtime is not installed, or the file is no graph of that form.
    """
    onnxruntime = load_onnxruntime()
    where = str(model) if isinstance(model, Path) else "the graph"
    if isinstance(model, Path) and not model.is_file():
        raise SlsError("no such file", where, "`sls-deploy export` writes one.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    # ONNX Runtime 1.32 would turn fp16 biases in front of a quantiser into overflowing integers.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise SlsError(f"cannot be loaded by ONNX Runtime ({_first_line(error)})", where) from None
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
        SlsError: ONNX Runtime cannot run the graph on that input.
    """
    try:
        return list(session.run(outputs, feeds))
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        shapes = ", ".join(str(list(array.shape)) for array in feeds.values())
        what = f"failed on pictures of shape {shapes} ({_first_line(error)})"
        raise SlsError(what, where, "Try a larger picture, or export the network again.") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
