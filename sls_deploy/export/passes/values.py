"""Typed parts of a graph that passes add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def constant(name: str, array: NDArray[Any]) -> ir.Value:
    """An initialiser of the array's type, which is not part of a graph yet."""
    tensor = ir.Tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    return ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """The same, as part of a graph."""
    value = constant(name, array)
    graph.register_initializer(value)
    return value


def typed_node(
    operator: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    attributes: Mapping[str, int | tuple[int, ...]] | None = None,
) -> ir.Node:
    """A node with one output of this type and shape, both called `name`."""
    node = ir.node(operator, inputs, attributes, name=name)
    output = node.outputs[0]
    output.name, output.shape, output.type = name, shape, ir.TensorType(dtype)
    return node
