"""Finds numbers that grow with the picture, which fp16 holds on small pictures only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from sls_deploy.export.passes.half_types import FLOAT_SLOTS
from sls_deploy.export.passes.statistics import is_square
from sls_deploy.onnx_layers import WEIGHTED

_SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
_MEAN, _POOL = "ReduceMean", "GlobalAveragePool"
_GRID = 1
"""The slot of GridSample that takes coordinates."""
_PICTURE_AXES, _FIRST_SIDE = 4, 2
"""Batch, channels, height and width; the first axis of the latter two."""

_CONTENTS: Mapping[str, Collection[int]] = {
    "ConstantOfShape": (),
    "Expand": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Pad": (0, 2),
    "Reshape": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Slice": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
"""Inputs whose numbers the output holds, of operators that others give only a size or a place."""

# fmt: off
_BOUNDED = frozenset((
    "Cos", "HardSigmoid", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "Reciprocal", "Sigmoid", "Sign", "Sin", "Softmax", "Softsign", "Tanh",
))
# fmt: on
"""Operators that give small numbers of large ones."""


@dataclass(frozen=True)
class _Sizes:
    """Values that are computed from shapes alone, by what becomes of them in a large picture."""

    growing: Collection[ir.Value]
    """Sizes, places and what is made of them."""
    settled: Collection[ir.Value]
    """What was divided by a size: shares of a picture, or one over its area."""


def picture_sized(graph: ir.Graph, data: Collection[ir.Value]) -> set[ir.Node]:
    """Operators whose numbers depend on how large the picture is, or lose bits where it is.

    A sum over 256x256 pixels is beyond fp16 if their mean is 1; the area itself is. Calibration
    pictures are small and do not show it. Found are:

    1. Sums and means over an axis of the picture, that is one of open size or one of the last two
       of four, with the squares in front of them.
    2. What reads a float of unbounded size that comes from shapes alone, such as an area.
    3. What reads a sum of 1 or a result of 2, up to the operator that brings it down again: a
       division by a size or by such a sum, or one that is bounded by itself. A mean is small.
    4. GridSample, and all that computes its grid back to the last layer, this one included: bf16
       has 8 bits for a place among hundreds of pixels.

    Args:
        graph: the operators.
        data: values that depend on the pixels.

    Returns:
        Operators that should compute in fp32.
    """
    sizes = _sizes(graph, data)
    found: set[ir.Node] = set()
    large: set[ir.Value] = set()
    for node in graph:
        if not any(value in data for value in node.outputs):
            continue
        if node.op_type == "GridSample":
            found |= {node, *_grid_makers(node, data)}
        reduced = node.op_type in (*_SUMS, _MEAN) and _over_picture(node)
        if reduced or node.op_type == _POOL:
            found |= {node, *_squares(node, data)}
        read = [value for index, value in enumerate(node.inputs) if _is_number(node, index)]
        if any(value in kind for value in read for kind in (sizes.growing, sizes.settled, large)):
            found.add(node)
        summed = reduced and node.op_type != _MEAN
        if summed or (node in found and not _is_small(node, sizes, large)):
            large.update(value for value in node.outputs if value.dtype == ir.DataType.FLOAT)
    return found


def _sizes(graph: ir.Graph, data: Collection[ir.Value]) -> _Sizes:
    growing: set[ir.Value] = set()
    settled: set[ir.Value] = set()
    for node in graph:
        if any(value in data for value in node.outputs):
            continue
        read = [value for index, value in enumerate(node.inputs) if _holds(node, index)]
        divisor = _divisor(node)
        if node.op_type in ("Shape", "Size"):
            growing.update(node.outputs)
        elif node.outputs[0].dtype == ir.DataType.BOOL:
            continue
        elif divisor in growing:
            settled.update(node.outputs)
        elif divisor in settled:
            growing.update(node.outputs)
        elif node.op_type in _BOUNDED:
            continue
        elif any(value in growing for value in read):
            growing.update(node.outputs)
        elif any(value in settled for value in read):
            settled.update(node.outputs)
    return _Sizes(growing, settled)


def _is_small(node: ir.Node, sizes: _Sizes, large: Collection[ir.Value]) -> bool:
    """Does an operator of fp32 give numbers that do not grow with the picture?"""
    divisor = _divisor(node)
    if node.op_type in _BOUNDED or divisor in sizes.growing or divisor in large:
        return True
    if node.op_type == "Mul" and any(value in sizes.settled for value in node.inputs):
        return True
    values = node.inputs[:_GRID] if node.op_type == "GridSample" else node.inputs
    grown = any(value in sizes.growing or value in large for value in values)
    return not grown and divisor not in sizes.settled


def _divisor(node: ir.Node) -> ir.Value | None:
    if node.op_type == "Div":
        return node.inputs[1]
    return node.inputs[0] if node.op_type == "Reciprocal" else None


def _holds(node: ir.Node, index: int) -> bool:
    """Do the numbers of an input go into the output?"""
    return index in _CONTENTS.get(node.op_type, (index,))


def _is_number(node: ir.Node, index: int) -> bool:
    """Is an input a float that goes into the output?"""
    value = node.inputs[index]
    is_float = value is not None and value.dtype == ir.DataType.FLOAT
    return is_float and _holds(node, index) and index not in FLOAT_SLOTS.get(node.op_type, ())


def _over_picture(node: ir.Node) -> bool:
    """Does a reduction run over an axis whose size the picture gives?"""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return True
    shape = value.shape
    axes = _axes(node)
    if axes is None:
        return True
    places = [axis % len(shape) for axis in axes] or range(len(shape))
    return any(
        not isinstance(shape[axis], int) or (len(shape) == _PICTURE_AXES and axis >= _FIRST_SIDE)
        for axis in places
    )


def _axes(node: ir.Node) -> list[int] | None:
    """Axes of a reduction, none of them for all; None where the graph computes them."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        return []
    if given.const_value is None:
        return None
    return [int(axis) for axis in given.const_value.numpy().ravel()]


def _squares(node: ir.Node, data: Collection[ir.Value]) -> set[ir.Node]:
    """The square that a reduction sums, if it does."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    return {source} if source is not None and is_square(source, data) else set()


def _grid_makers(node: ir.Node, data: Collection[ir.Value]) -> set[ir.Node]:
    """What computes the grid, back to the last layers."""
    found: set[ir.Node] = set()
    wanted = [node.inputs[_GRID]]
    while wanted:
        value = wanted.pop()
        source = value.producer() if value is not None and value in data else None
        if source is None or source in found:
            continue
        found.add(source)
        if source.op_type not in WEIGHTED:
            wanted.extend(source.inputs)
    return found
