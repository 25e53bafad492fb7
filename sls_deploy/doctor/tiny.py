"""A network so small that whatever runs it is checked in no time: what goes in comes out."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 16, 16
SHAPE = (1, CHANNELS, SIDE, SIDE)
INPUT, OUTPUT = "input", "output"
_OPSET = 18
_IR_VERSION = 8
"""The oldest that the opset allows: every ONNX Runtime that we support reads it."""


def tiny_network() -> onnx.ModelProto:
    """A 3x3 convolution in fp16 that copies its input; its weights are 2:4-sparse.

    Input and output are float32, NCHW, of the shape `SHAPE`.
    """
    weight = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float16)
    weight[np.arange(CHANNELS), np.arange(CHANNELS), 1, 1] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [INPUT], ["half"], "to_half", to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["half", "weight"], ["copy"], "copy", pads=[1] * 4),
            helper.make_node("Cast", ["copy"], [OUTPUT], "to_float", to=TensorProto.FLOAT),
        ],
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def tiny_input() -> NDArray[np.float32]:
    """An input whose values fp16 holds exactly, so that the output must equal it."""
    size = int(np.prod(SHAPE))
    return (np.arange(size) % 256 / 256).astype(np.float32).reshape(SHAPE)
