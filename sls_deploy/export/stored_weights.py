"""The weights that a graph's operators read: as they are stored, whatever stands in between."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.onnx_weights import shown

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with a weight, their second input."""
_PRECISIONS = {
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
_LONGEST = 16
"""Operators that a weight may come through."""
_AGAIN = "Export it again."


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


@dataclass(frozen=True)
class WeightUse:
    """An operator that has a weight."""

    node: str
    """Name of the node."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    groups: int
    """Convolution groups."""
    weight: StoredWeight | None
    """The weight; None if the graph computes it."""
    filters: NDArray[Any]
    """Its values turned to [C_out, C_in / groups, *kernel]."""
    scales: NDArray[Any] | None = None
    """Its scale turned in the same way."""


def weight_uses(model: onnx.ModelProto) -> Iterator[WeightUse]:
    """Every use of a weight by a convolution or a product, in graph order.

    Products of two things that the graph computes have no weight and are left out, and so are
    products with a vector. Graphs inside of operators are not looked into.

    Args:
        model: a sound one, as `read_model` gives it.

    Raises:
        SlsError: a weight does not fit its operator, scales or groups.
    """
    constants = _Constants(model.graph)
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            continue
        weight = constants.weight(node.input[1])
        attributes = _attributes(node)
        groups = attributes.get("group", 1)
        if weight is None:
            if node.op_type.startswith("Conv"):
                yield WeightUse(node.name, node.op_type, groups, None, np.zeros(0))
        elif weight.values.ndim >= 2:
            filters, scales = (
                None if array is None else _filters(node, array.transpose(weight.order), attributes)
                for array in (weight.values, weight.scale)
            )
            assert filters is not None  # noqa: S101 - a weight has values
            yield WeightUse(node.name, node.op_type, groups, weight, filters, scales)


def _filters(
    node: onnx.NodeProto, weight: NDArray[Any], attributes: Mapping[str, Any]
) -> NDArray[Any]:
    """A weight as that of a convolution: [C_out, C_in / groups, *kernel]."""
    groups = attributes.get("group", 1)
    if node.op_type.startswith("Conv"):
        if weight.ndim < 3 or groups < 1 or len(weight) % groups:
            what = f"has a weight of {list(weight.shape)}, which {groups} groups cannot have"
            raise SlsError(what, shown(node.name), _AGAIN)
        if node.op_type == "Conv":
            return weight
        grouped = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        turned = grouped.swapaxes(1, 2)
        return turned.reshape(groups * turned.shape[1], *turned.shape[2:])
    columns = weight if attributes.get("transB", 0) else weight.swapaxes(-1, -2)
    # Of a batch of matrices every row is a filter of its own.
    return columns.reshape(columns.size // max(1, columns.shape[-1]), columns.shape[-1])


class _Constants:
    """The constants of a graph, and those computed from one by simple operators."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors: dict[str, TensorProto] = {item.name: item for item in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}

    def weight(self, name: str, steps: Collection[str] = _STEPS) -> StoredWeight | None:
        """What a value is, or None if it is not constant or computed by other operators.

        Args:
            name: the value.
            steps: operators that it may come through.

        Raises:
            SlsError: one of them does not fit the constant.
        """
        passed: list[onnx.NodeProto] = []
        while (tensor := self._tensor(name)) is None:
            node = self._producers.get(name)
            if node is None or node.op_type not in steps or len(passed) == _LONGEST:
                return None
            passed.append(node)
            name = node.input[0]
        values = numpy_helper.to_array(tensor)
        order = tuple(range(values.ndim))
        found: StoredWeight | None = StoredWeight(name, values, None, moved=False, order=order)
        for node in reversed(passed):
            try:
                found = self._behind(node, found) if found else None
            except (ValueError, KeyError):  # of axes, shapes and types
                what = f"cannot be applied to '{shown(name)}'"
                raise SlsError(what, shown(node.name), _AGAIN) from None
        return found

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
        """A weight after one more operator."""
        attributes = _attributes(node)
        match node.op_type:
            case "Cast":
                return _cast(weight, attributes["to"])
            case "Transpose":
                turn = attributes.get("perm") or range(weight.values.ndim)[::-1]
                if sorted(turn) != list(range(weight.values.ndim)):
                    raise ValueError(turn)
                return replace(weight, order=tuple(weight.order[axis] for axis in turn))
            case "QuantizeLinear" | "DequantizeLinear":
                parts = [self.weight(name, _PLAIN_STEPS) for name in node.input[1:3] if name]
                given = [part.values for part in parts if part is not None]
                blocked = attributes.get("block_size", 0)
                if not parts or len(given) < len(parts) or weight.scale is not None or blocked:
                    return None
                axis = attributes.get("axis", 1)
                scale, *zero = (_spread(part, weight, axis) for part in given)
                step = _quantized if node.op_type == "QuantizeLinear" else _dequantized
                return step(weight, scale, zero[0] if zero else None)
            case _:
                return weight


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
    if not (np.asarray(scale, np.float64) > 0).all():
        raise ValueError(scale)
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


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
