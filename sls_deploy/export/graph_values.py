"""All values of a graph at once, whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures
from sls_deploy.sizes import padded_side

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))
_INPUT, _OUTPUT = "input", "output"


@dataclass(frozen=True)
class Ports:
    """How a graph takes and gives pictures."""

    input: str
    """Name of the input."""
    output: str
    """Name of the output that is the picture."""
    channels_last: bool
    """Whether pictures are NHWC, and not NCHW."""
    feed: Callable[[Pictures], NDArray[Any]]
    """Turns pictures, NCHW float32 RGB on 0..1, into what the input takes."""
    picture: Callable[[NDArray[Any]], Pictures]
    """Turns what the output gives, as float32, into pictures of that form."""


class GraphValues:
    """A graph all of whose values are outputs.

    Memory is that of all activations of one batch, and ONNX Runtime fuses less. fp16 is so rounded
    at every value; bf16, which ONNX Runtime does not run, is rounded by arithmetic
    (`RoundedFloat32`).

    Args:
        content: the ONNX file, with its weights inside.
        ports: how it takes pictures; None if `sls-deploy export` wrote it, from floats to floats.

    Raises:
        SlsError: ONNX Runtime is not installed, or cannot load the graph.
    """

    def __init__(self, content: bytes, ports: Ports | None = None) -> None:
        self.proto = onnx.load_model_from_string(content).graph
        model = onnx.load_model_from_string(content)
        if ports is not None:
            _take_floats(model.graph, ports.input)
            _give(model.graph, ports.output)
        types = {item.type.tensor_type.elem_type for item in model.graph.value_info}
        types |= {item.data_type for item in model.graph.initializer}
        if TensorProto.BFLOAT16 in types:
            model = onnx.load_model_from_string(
                to_bytes(RoundedFloat32()(ir.from_proto(model)).model)
            )
        ends = {value.name for value in model.graph.output}
        self._ports = ports
        self._names = [name for node in self.proto.node for name in node.output if name]
        # ONNX Runtime finds the types by itself.
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in self._names if name not in ends
        )
        self._session = open_session(model.SerializeToString())
        if self._session.get_inputs()[0].type != "tensor(float)":
            raise SlsError("takes pictures as bytes", "the graph", "Compare the file of floats.")

    def fitted(self, pictures: Pictures, least_side: int, multiple: int) -> Pictures:
        """Pictures of a size that the graph takes."""
        sides = [padded_side(side, least_side, multiple) for side in pictures.shape[2:]]
        batch, *axes = self._session.get_inputs()[0].shape
        fixed = axes[:2] if self._ports and self._ports.channels_last else axes[1:]
        height, width = (
            size if isinstance(size, int) else side for size, side in zip(fixed, sides, strict=True)
        )
        if isinstance(batch, int):
            pictures = pictures[np.arange(batch) % len(pictures)]
        return reflect(pictures[:, :, :height, :width], height, width)

    def run(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """All float values by name, as float32, and the picture as floats on 0..1."""
        ports = self._ports
        given = pictures if ports is None else ports.feed(pictures).astype(np.float32)
        names = [*self._names, _OUTPUT] if ports else self._names
        values = run_session(self._session, names, {_INPUT: given}, "the graph")
        found = {
            name: value.astype(np.float32, copy=False)
            for name, value in zip(names, values, strict=True)
            if isinstance(value, np.ndarray) and (value.dtype in _FLOATS or name == _OUTPUT)
        }
        if ports:
            found[ports.output] = ports.picture(found[_OUTPUT])
        return found


def _take_floats(graph: onnx.GraphProto, name: str) -> None:
    """Let a graph take float32 as 'input', and turn it into what the graph took, in place."""
    (taken,) = [value for value in graph.input if value.name == name]
    kind = taken.type.tensor_type.elem_type
    inner = f"{name} of its own type"
    for node in graph.node:
        node.input[:] = [inner if item == name else item for item in node.input]
    taken.name = _INPUT
    taken.type.tensor_type.elem_type = TensorProto.FLOAT
    graph.node.insert(0, helper.make_node("Cast", [_INPUT], [inner], to=kind))


def _give(graph: onnx.GraphProto, name: str) -> None:
    """Let a graph give a value as 'output', too, in place."""
    if name != _OUTPUT:
        graph.node.append(helper.make_node("Identity", [name], [_OUTPUT]))
        graph.output.append(onnx.ValueInfoProto(name=_OUTPUT))
