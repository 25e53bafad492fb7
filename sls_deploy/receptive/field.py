"""How far around it a network looks for a pixel, as its ONNX graph tells: what tiles must share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from sls_deploy.onnx_file import facts
from sls_deploy.onnx_weights import subgraphs
from sls_deploy.receptive import arithmetic, layout, windows
from sls_deploy.receptive.axis import Axis, Size
from sls_deploy.receptive.resize import resize
from sls_deploy.receptive.sizes import shape, sizes
from sls_deploy.receptive.values import Fixed, Numbers, Operator, Pixels, Unfollowed, Value

_OLDEST = 13
"""First opset in which the axes of all operators are inputs, and those of Softmax one."""
_NCHW, _NHWC = (2, 3), (1, 2)


@dataclass(frozen=True)
class ReceptiveField:
    """What an output pixel of a network hangs on."""

    pixels: int | None
    """Input pixels on each side that an output pixel may hang on; None: the whole picture."""
    exact: bool
    """Whether a tile with that much around it gives what the whole picture gives."""
    multiple: int
    """Input pixels that the places of tiles must be multiples of, so that strides see the same
    grid."""
    reason: str
    """Why `pixels` is None or `exact` is False; empty otherwise."""


def receptive_field(model: onnx.ModelProto) -> ReceptiveField:
    """Find how far an output pixel looks, from the operators of a graph.

    It follows the graph from its input to its output, and keeps for every tensor which pixels an
    element may hang on. The result is an upper bound: equal to what is so for convolutions,
    poolings, pixel shuffles and resizing by constant factors, above it for resizing to a computed
    size and for reflection by more than half of the window behind it. The whole picture is the
    answer where an operator looks at it, cuts it, or is not known.

    A tile gives the same as the whole picture in what lies `pixels` or more from those of its
    borders that are not the picture's, up to rounding. It does not where arithmetic hangs on sizes:
    then `exact` is False, and `pixels` still says what may change when a pixel of one picture does.

    Args:
        model: a sound graph with one input, float NCHW or uint8 NHWC, such as `read_model` gives.
            Its metadata may say what sides must be multiples of, see `facts`; with that, sizes
            are known that are not without.
    """
    try:
        found = _followed(model)
        pixels = _around(found)
    except Unfollowed as lost:
        return ReceptiveField(None, exact=False, multiple=1, reason=str(lost))
    return ReceptiveField(pixels, not found.inexact, found.multiple, found.inexact)


def _followed(model: onnx.ModelProto) -> Pixels:
    """What the output of a graph hangs on.

    Raises:
        Unfollowed: on the whole picture, or it is not known.
    """
    graph = model.graph
    opset = max((item.version for item in model.opset_import if not item.domain), default=0)
    if opset < _OLDEST:
        raise Unfollowed(f"opset {opset} is not followed")
    values: dict[str, Value] = {
        item.name: Fixed(tuple(item.dims), _array(item)) for item in graph.initializer
    }
    given = [item for item in graph.input if item.name not in values]
    if len(given) != 1:
        raise Unfollowed("the graph has not one input")
    values[given[0].name], sides = _picture(given[0], _grid(model))
    for node in graph.node:
        inputs = [values[name] if name else None for name in node.input]
        try:
            result = _result(node, inputs, sides)
        except Unfollowed as lost:
            result = lost
        for place, name in enumerate(filter(None, node.output)):
            several = place and isinstance(result, Pixels) and node.op_type != "Split"
            values[name] = Unfollowed(f"a second output of {node.op_type}") if several else result
    names = [item.name for item in graph.output]
    output = values["output" if "output" in names else names[0]]
    if isinstance(output, Unfollowed):
        raise output
    if not isinstance(output, Pixels):
        raise Unfollowed("its output hangs on no pixel")
    return output


def _result(
    node: onnx.NodeProto, inputs: list[Value | None], sides: tuple[int | None, int | None]
) -> Value:
    """What a node gives.

    Raises:
        Unfollowed: it hangs on the whole picture, or it is not known.
    """
    operator = Operator(node, inputs)
    for value in inputs:
        if isinstance(value, Unfollowed):
            return Fixed(None) if node.op_type == "Shape" else value
    try:
        if any(subgraphs(node)) or node.domain not in ("", "ai.onnx"):
            raise Unfollowed("is not followed")
        if node.op_type == "Shape":
            return shape(operator)
        if not any(isinstance(value, Pixels) for value in inputs):
            return _constant(node, operator)
        if node.op_type == "Resize":
            return resize(operator, sides)
        handler = _HANDLERS.get(node.op_type)
        if handler is None:
            raise Unfollowed("looks at the whole picture or is not known")
        return handler(operator)
    except Unfollowed as lost:
        raise Unfollowed(f"its {operator} {lost}") from None
    except (ValueError, IndexError, TypeError, StopIteration, ZeroDivisionError):
        raise Unfollowed(f"its {operator} has an unknown form") from None


def _constant(node: onnx.NodeProto, operator: Operator) -> Value:
    """What is made of constants and sizes."""
    if node.op_type == "Constant":
        held = operator.attributes.get("value")
        if isinstance(held, TensorProto):
            return Fixed(tuple(held.dims), _array(held))
        return Fixed(None)
    if any(isinstance(value, Numbers) for value in operator.inputs):
        return sizes(operator)
    first = operator.given(0)
    if isinstance(first, Fixed) and first.shape is not None:
        if node.op_type in _SAME_SHAPE:
            return first
        if node.op_type == "Transpose":
            order = operator.attributes.get("perm", range(len(first.shape))[::-1])
            return Fixed(tuple(first.shape[axis] for axis in order))
    return Fixed(None)


def _picture(value: onnx.ValueInfoProto, grid: int) -> tuple[Pixels, tuple[int | None, int | None]]:
    """The input of a graph; its height and width, where they are fixed."""
    kind = value.type.tensor_type
    dims = [item.dim_value or None for item in kind.shape.dim]
    if len(dims) != 4:
        raise Unfollowed("its input is no batch of pictures")
    where = _NHWC if kind.elem_type == TensorProto.UINT8 else _NCHW
    sides = dims[where[0]], dims[where[1]]
    axes: list[Axis | int | None] = list(dims)
    for side, axis in enumerate(where):
        axes[axis] = Axis(Size(side, sides[side] or grid))
    return Pixels(tuple(axes)), sides


def _grid(model: onnx.ModelProto) -> int:
    """Pixels that height and width are multiples of, as far as the graph tells."""
    try:
        said = json.loads(facts(model).get("sides", "null"))
        grid = said["multiple"] if isinstance(said, dict) else 1
    except (ValueError, KeyError):
        return 1
    return grid if isinstance(grid, int) and grid > 0 else 1


def _around(output: Pixels) -> int:
    """Input pixels on each side that an output pixel hangs on."""
    axes = [axis.settled() for axis in output.axes if isinstance(axis, Axis)]
    if sorted(axis.size.side for axis in axes) != [0, 1] or len(output.axes) != 4:
        raise Unfollowed("its output is no batch of pictures")
    if any(axis.spacing.numerator != 1 for axis in axes):
        raise Unfollowed("its output is smaller than the picture")
    reaches = [0]
    for axis in axes:
        scale = axis.spacing.denominator
        for phase in range(scale):  # all of them stand for the input pixel that they lie in
            place = Fraction(phase, scale)
            reaches += [-math.ceil(axis.first + place), math.floor(axis.last + place)]
    return max(reaches)


def _array(tensor: TensorProto) -> Any:
    """What a constant holds, if that may be a shape, factors or places; None for weights."""
    if len(tensor.dims) > 1:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return None


_SAME_SHAPE = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
# fmt: off
_EACH = (
    "Abs", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Cos", "DequantizeLinear", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
)
_TOGETHER = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)
_REDUCING = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)
# fmt: on
_HANDLERS: Mapping[str, Callable[[Operator], Pixels]] = {
    **dict.fromkeys(_EACH, arithmetic.each),
    **dict.fromkeys(_TOGETHER, arithmetic.together),
    **dict.fromkeys(_REDUCING, arithmetic.reduce),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "Softmax"), arithmetic.normalize),
    **dict.fromkeys(("AveragePool", "Conv", "ConvTranspose", "MaxPool"), windows.window),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), windows.shuffle),
    "Concat": arithmetic.concat,
    "Gather": layout.gather,
    "MatMul": arithmetic.product,
    "Pad": windows.pad,
    "Reshape": layout.reshape,
    "Slice": layout.cut,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
