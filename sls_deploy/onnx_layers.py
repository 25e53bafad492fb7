"""The layers of a graph: operators with a weight, and the weight as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sls_deploy.errors import SlsError
from sls_deploy.onnx_constants import Constants, StoredWeight, Unfollowed
from sls_deploy.onnx_weights import AGAIN, graphs, shown, subgraphs

_PRODUCTS = ("Gemm", "MatMul")
WEIGHTED = ("Conv", "ConvTranspose", *_PRODUCTS)
"""Operators with a weight: the second input, of products also the first."""


@dataclass(frozen=True)
class WeightUse:
    """An operator that has a weight."""

    node: str
    """Name of the node; its operator and its number in the graph if it has none."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    groups: int
    """Convolution groups."""
    weight: StoredWeight | None
    """The weight; None if it could not be followed."""
    filters: NDArray[Any]
    """Its values turned to [C_out, C_in / groups, *kernel]."""
    scales: NDArray[Any] | None = None
    """Its scale turned in the same way."""
    reason: str = ""
    """Why the weight could not be followed; empty if it was."""


def weight_uses(model: onnx.ModelProto) -> Iterator[WeightUse]:
    """Every use of a weight by a convolution or a product, in graph order.

    Products of two things that the graph computes from the picture have no weight and are left out,
    and so are products with a vector. Layers in graphs inside of operators are named, no more.

    Args:
        model: its nodes in an order in which they can run.

    Raises:
        SlsError: a weight does not fit its operator, scales or groups, or has no values.
    """
    constants = Constants(model.graph)
    for number, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type} {number}"
        yield from _inside(node, constants)
        place = _place(node, constants)
        if place is None:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        groups = attributes.get("group", 1)
        try:
            weight = constants.weight(node.input[place])
        except Unfollowed as lost:
            yield _unfollowed(name, node.op_type, groups, str(lost))
            continue
        if weight.values.ndim < 2:
            continue
        turned = [
            None
            if array is None
            else _filters(node, name, array.transpose(weight.order), attributes, place)
            for array in (weight.values, weight.scale)
        ]
        filters, scales = turned
        assert filters is not None  # noqa: S101 - a weight has values
        yield WeightUse(name, node.op_type, groups, weight, filters, scales)


def _place(node: onnx.NodeProto, constants: Constants) -> int | None:
    """Which input is the weight; None if there is none."""
    if node.op_type not in WEIGHTED or len(node.input) < 2:
        return None
    if node.op_type not in _PRODUCTS:
        return 1
    return next((place for place in (1, 0) if node.input[place] in constants), None)


def _inside(node: onnx.NodeProto, constants: Constants) -> Iterator[WeightUse]:
    """Layers in the graphs inside of a node."""
    parts = [part for inner in subgraphs(node) for part in graphs(inner)]
    own = {item.name for part in parts for item in part.initializer}
    own |= {
        name
        for part in parts
        for item in part.node
        if item.op_type == "Constant"
        for name in item.output
    }
    reason = f"it stands inside of {shown(node.op_type)}, which is not looked into"
    for part in parts:
        for number, item in enumerate(part.node):
            fixed = any(name in own or name in constants for name in item.input[:2])
            if item.op_type in WEIGHTED and (fixed or item.op_type not in _PRODUCTS):
                name = item.name or f"{node.name or node.op_type}: {item.op_type} {number}"
                yield _unfollowed(name, item.op_type, 1, reason)


def _unfollowed(name: str, operator: str, groups: int, reason: str) -> WeightUse:
    return WeightUse(name, operator, groups, None, np.zeros(0), reason=reason)


def _filters(
    node: onnx.NodeProto,
    name: str,
    weight: NDArray[Any],
    attributes: Mapping[str, Any],
    place: int,
) -> NDArray[Any]:
    """A weight as that of a convolution: [C_out, C_in / groups, *kernel]."""
    if not weight.size:
        raise SlsError(f"has a weight of {list(weight.shape)}, without values", shown(name), AGAIN)
    groups = attributes.get("group", 1)
    if node.op_type not in _PRODUCTS:
        if weight.ndim < 3 or groups < 1 or len(weight) % groups:
            what = f"has a weight of {list(weight.shape)}, which {groups} groups cannot have"
            raise SlsError(what, shown(name), AGAIN)
        if node.op_type == "Conv":
            return weight
        grouped = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        turned = grouped.swapaxes(1, 2)
        return turned.reshape(groups * turned.shape[1], *turned.shape[2:])
    # What is summed lies along the rows of a first input, along the columns of a second.
    summed_last = (place == 0) != bool(attributes.get("transB" if place else "transA", 0))
    rows = weight if summed_last else weight.swapaxes(-1, -2)
    # Of a batch of matrices every row is a filter of its own.
    return rows.reshape(-1, rows.shape[-1])
