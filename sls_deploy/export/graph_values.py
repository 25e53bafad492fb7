"""All values of a graph at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures
from sls_deploy.sizes import padded_side

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))


class GraphValues:
    """A graph all of whose values are outputs.

    Memory is that of all activations of one batch, and ONNX Runtime fuses less. fp16 is so rounded
    at every value; bf16, which ONNX Runtime does not run, is rounded by arithmetic
    (`RoundedFloat32`).

    Args:
        content: an ONNX file from 'input' to 'output', both NCHW float32, its weights inside.

    Raises:
        SlsError: ONNX Runtime is not installed, or cannot load the graph.
    """

    def __init__(self, content: bytes) -> None:
        self.proto = onnx.load_model_from_string(content).graph
        model = onnx.load_model_from_string(content)
        types = {item.type.tensor_type.elem_type for item in model.graph.value_info}
        types |= {item.data_type for item in model.graph.initializer}
        if TensorProto.BFLOAT16 in types:
            model = onnx.load_model_from_string(
                to_bytes(RoundedFloat32()(ir.from_proto(model)).model)
            )
        ends = {value.name for value in model.graph.output}
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
        batch, _, *fixed = self._session.get_inputs()[0].shape
        height, width = (
            size if isinstance(size, int) else side for size, side in zip(fixed, sides, strict=True)
        )
        if isinstance(batch, int):
            pictures = pictures[np.arange(batch) % len(pictures)]
        return reflect(pictures[:, :, :height, :width], height, width)

    def run(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """All float values by name, as float32."""
        values = run_session(self._session, self._names, {"input": pictures}, "the graph")
        return {
            name: value.astype(np.float32, copy=False)
            for name, value in zip(self._names, values, strict=True)
            if isinstance(value, np.ndarray) and value.dtype in _FLOATS
        }
