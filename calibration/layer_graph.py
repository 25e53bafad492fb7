"""Networks of a single layer, to time it alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.config import Precision
from sls_deploy.errors import SlsError

KINDS = ("Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "Linear")
"""Layers that can be timed, as the search calls them."""
_TYPES: dict[str, tuple[int, type[np.floating[Any]]]] = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "fp32": (TensorProto.FLOAT, np.float32),
}
PRECISIONS = tuple(_TYPES)
"""Precisions that layers can be timed in."""


def layer_graph(shape: LayerShape, precision: Precision, *, sparse: bool) -> onnx.ModelProto:
    """A network of this one layer, with random weights, from 'input' to 'output'.

    It is padded so that the kernel is applied at all positions of the shape and at no other.

    Args:
        shape: the layer.
        precision: of weights, activations, input and output: 'fp16' or 'fp32'.
        sparse: zero two of every four consecutive input channels.

    Raises:
        SlsError: no such kind of layer can be timed, or not in that precision.
    """
    _check(shape, precision)
    element, dtype = _TYPES[precision]
    bias = np.zeros(shape.outputs * shape.groups, dtype)
    tensors = [
        numpy_helper.from_array(_weight(shape, sparse=sparse).astype(dtype), "weight"),
        numpy_helper.from_array(bias, "bias"),
    ]
    values = [
        helper.make_tensor_value_info(name, element, sizes)
        for name, sizes in (("input", input_sizes(shape)), ("output", _output_sizes(shape)))
    ]
    operator, attributes = _operator(shape)
    node = helper.make_node(
        operator, ["input", "weight", "bias"], ["output"], "layer", **attributes
    )
    graph = helper.make_graph([node], "one_layer", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def input_sizes(shape: LayerShape) -> tuple[int, ...]:
    """Shape of what the network of a layer is given: channels second, of a linear layer last."""
    steps = (1,) * len(shape.stride) if shape.transposed else shape.stride
    return _sizes(shape, shape.inputs, steps)


def _output_sizes(shape: LayerShape) -> tuple[int, ...]:
    steps = shape.stride if shape.transposed else (1,) * len(shape.stride)
    return _sizes(shape, shape.outputs, steps)


def _sizes(shape: LayerShape, channels: int, steps: tuple[int, ...]) -> tuple[int, ...]:
    channels *= shape.groups
    if shape.kind == "Linear":
        return shape.positions, channels
    if len(shape.kernel) == 1:
        return shape.height, channels, shape.width * steps[0]
    return 1, channels, shape.height * steps[0], shape.width * steps[1]


def _check(shape: LayerShape, precision: Precision) -> None:
    if shape.kind not in KINDS:
        raise SlsError(f"only {', '.join(KINDS)} can be timed", str(shape))
    if precision not in _TYPES:
        fix = f"Choose --precision {' or '.join(_TYPES)}."
        raise SlsError(f"layers are not timed alone in {precision}", str(shape), fix)


def _weight(shape: LayerShape, *, sparse: bool) -> NDArray[np.float64]:
    """Random weights as the operator takes them: input channels second, first if transposed."""
    outputs, inputs = shape.outputs * shape.groups, shape.inputs
    weight = np.random.default_rng(0).standard_normal((outputs, inputs, *shape.kernel))
    if sparse:
        weight[:, 2::4] = weight[:, 3::4] = 0
    if not shape.transposed:
        return weight
    grouped = weight.reshape(shape.groups, shape.outputs, inputs, *shape.kernel).swapaxes(1, 2)
    return grouped.reshape(shape.groups * inputs, shape.outputs, *shape.kernel)


def _operator(shape: LayerShape) -> tuple[str, dict[str, Any]]:
    """The operator of a layer with its attributes."""
    if shape.kind == "Linear":
        return "Gemm", {"transB": 1}
    attributes: dict[str, Any] = {
        "group": shape.groups,
        "strides": shape.stride,
        "dilations": shape.dilation,
    }
    sides = [
        (distance * (taps - 1) + 1, step)
        for taps, step, distance in zip(shape.kernel, shape.stride, shape.dilation, strict=True)
    ]
    if shape.transposed:
        attributes["output_padding"] = [max(step - size, 0) for size, step in sides]
    pads = [_pads(size, step, transposed=shape.transposed) for size, step in sides]
    attributes["pads"] = [before for before, _ in pads] + [after for _, after in pads]
    return "ConvTranspose" if shape.transposed else "Conv", attributes


def _pads(size: int, step: int, *, transposed: bool) -> tuple[int, int]:
    """Padding before and after one dimension; the same on both sides where that can be.

    The size is what the taps of the kernel span.
    With a step of 2 or more one position too much on a side makes no further output.
    """
    total = max(size - step, 0)
    more = math.ceil(total / 2)
    return (more, more) if step > 1 and not transposed else (total - more, more)
