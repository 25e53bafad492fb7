"""Follows a value of a graph back to the constant that it is, as it is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.onnx_weights import AGAIN, shown, subgraphs

_PRECISIONS: Mapping[str, str] = {
    "float64": "fp64",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
}
_INTEGERS = {"int8": (-128, 127), "uint8": (0, 255)}
_PLAIN_STEPS = ("Identity", "Cast")
_STEPS = (*_PLAIN_STEPS, "Transpose", "QuantizeLinear", "DequantizeLinear")
"""Operators behind which a weight is still itself, and a scale."""
_RESHAPED = ("Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Tile", "Unsqueeze")
"""Operators that give what their first input holds, in a shape that the picture may decide."""
_LONGEST = 16
"""Operators that a weight may come through."""


class Unfollowed(Exception):  # noqa: N818 - it is an answer, which no user sees
    """A value is not a constant, or comes through operators that are not followed; says why."""


@dataclass(frozen=True)
class StoredWeight:
    """A constant that reaches an operator through casts, transpositions and quantisation alone."""

    name: str
    """Name of the initialiser, or of what a Constant gives."""
    values: NDArray[Any]
    """In the initialiser's layout: floats as the operator gets them, or integers less their zero
    point."""
    scale: NDArray[Any] | None
    """What each integer is multiplied by, of the same shape; None for floats."""
    moved: bool
    """Whether the integers have a zero point other than 0."""
    order: tuple[int, ...]
    """Axes of `values` in the order in which the operator gets them."""

    @property
    def precision(self) -> str:
        """Such as 'fp16' or 'int8'."""
        if self.scale is not None:
            return "int8"
        return _PRECISIONS.get(self.values.dtype.name, self.values.dtype.name)


class Constants:
    """The constants of a graph, and what is computed from them alone.

    Args:
        graph: its nodes in an order in which they can run. Graphs inside of nodes are left out.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors: dict[str, TensorProto] = {item.name: item for item in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._fixed = set(self._tensors)
        for node in graph.node:
            if self._is_fixed(node):
                self._fixed.update(node.output)

    def __contains__(self, name: str) -> bool:
        """Whether a value holds constants alone; the picture may decide their shape."""
        return name in self._fixed

    def weight(self, name: str, steps: Collection[str] = _STEPS) -> StoredWeight:
        """What a value is.

        Args:
            name: the value.
            steps: operators that it may come through.

        Raises:
            Unfollowed: it is not constant, or comes through other operators.
            SlsError: one of them does not fit the constant.
        """
        passed: list[onnx.NodeProto] = []
        while (tensor := self._tensor(name)) is None:
            node = self._producers.get(name)
            if node is None:
                raise Unfollowed("its weights are no constant of the graph")
            if node.op_type not in steps:
                raise _stopped_at(node)
            if len(passed) == _LONGEST:
                raise Unfollowed(f"its weights come through more than {_LONGEST} operators")
            passed.append(node)
            name = node.input[0]
        values = numpy_helper.to_array(tensor)
        order = tuple(range(values.ndim))
        found = StoredWeight(name, values, None, moved=False, order=order)
        for node in reversed(passed):
            try:
                behind = self._behind(node, found)
            except (ValueError, KeyError):  # of axes, shapes, types and steps
                what = f"cannot be applied to '{shown(name)}'"
                raise SlsError(what, shown(node.name), AGAIN) from None
            if behind is None:
                raise _stopped_at(node)
            found = behind
        return found

    def _is_fixed(self, node: onnx.NodeProto) -> bool:
        given = [name for name in node.input if name]
        if node.op_type == "Constant":
            return True
        if not given or any(subgraphs(node)):
            return False
        deciding = given[:1] if node.op_type in _RESHAPED else given
        return all(name in self._fixed for name in deciding)

    def _tensor(self, name: str) -> TensorProto | None:
        if name in self._tensors:
            return self._tensors[name]
        node = self._producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        for item in node.attribute:
            if item.name == "value":
                tensor: TensorProto = item.t
                return tensor
        return None

    def _behind(self, node: onnx.NodeProto, weight: StoredWeight) -> StoredWeight | None:
        """A weight after one more operator; None if it is not itself any more."""
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        match node.op_type:
            case "Cast":
                return _cast(weight, attributes["to"])
            case "Transpose":
                turn = attributes.get("perm") or range(weight.values.ndim)[::-1]
                if sorted(turn) != list(range(weight.values.ndim)):
                    raise ValueError(turn)
                return replace(weight, order=tuple(weight.order[axis] for axis in turn))
            case "QuantizeLinear" | "DequantizeLinear":
                given = [self.weight(name, _PLAIN_STEPS).values for name in node.input[1:3] if name]
                if not given or weight.scale is not None or attributes.get("block_size", 0):
                    return None
                axis = attributes.get("axis", 1)
                scale, *zero = (_spread(part, weight, axis) for part in given)
                if not (np.asarray(scale, np.float64) > 0).all():
                    raise SlsError("has a scale that is not above zero", shown(node.name), AGAIN)
                step = _quantized if node.op_type == "QuantizeLinear" else _dequantized
                return step(weight, scale, zero[0] if zero else None)
            case _:
                return weight


def _stopped_at(node: onnx.NodeProto) -> Unfollowed:
    return Unfollowed(f"its weights come through {shown(node.op_type)}, which is not followed")


def _cast(weight: StoredWeight, to: int) -> StoredWeight | None:
    dtype = helper.tensor_dtype_to_np_dtype(to)
    if dtype.name not in _PRECISIONS:
        return None
    if weight.scale is not None:
        return weight
    with np.errstate(over="ignore"):
        return replace(weight, values=weight.values.astype(dtype))


def _spread(part: NDArray[Any], weight: StoredWeight, axis: int) -> NDArray[Any]:
    """A scale or zero point, of the whole tensor or along an axis, for each value."""
    shape = [1] * weight.values.ndim
    if part.size > 1:
        if part.ndim != 1 or not -len(shape) <= axis < len(shape):
            raise ValueError(axis)
        shape[weight.order[axis]] = part.size
    return np.broadcast_to(part.reshape(shape), weight.values.shape)


def _quantized(
    weight: StoredWeight, scale: NDArray[Any], zero: NDArray[Any] | None
) -> StoredWeight | None:
    """Integers, still with their zero point."""
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if dtype.name not in _INTEGERS or weight.values.dtype.name not in _PRECISIONS:
        return None
    steps = np.rint(weight.values.astype(np.float64) / scale.astype(np.float64))
    moved = steps if zero is None else steps + zero
    return replace(weight, values=moved.clip(*_INTEGERS[dtype.name]).astype(dtype))


def _dequantized(
    weight: StoredWeight, scale: NDArray[Any], zero: NDArray[Any] | None
) -> StoredWeight | None:
    """Integers less their zero point, with their scale."""
    if weight.values.dtype.name not in _INTEGERS:
        return None
    if zero is None or not np.count_nonzero(zero):
        return replace(weight, scale=scale)
    values = weight.values.astype(np.int16) - zero.astype(np.int16)
    return replace(weight, values=values, scale=scale, moved=True)
