"""Finds sums of squares, which fp16 can neither hold nor tell from zero."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

_ROOTED = ("ReduceL2",)
_SUMMED = ("ReduceMean", "ReduceSum", "Add", "Sub", "Mul", "Div", "Clip", "Max", "Expand")
"""What may stand between a square and the root of its sum, or between that and a division."""


def root_mean_squares(graph: ir.Graph, data: Collection[ir.Value]) -> set[ir.Node]:
    """Operators of normalisations that are written out: the squares up to the division by a root.

    The square of 256 is beyond fp16, and that of 2^-13 is zero in it: a variance of features on
    0..255 overflows, and an epsilon of 1e-8 or less vanishes, so that a flat picture is divided by
    zero. LayerNormalization and its like need no such care, as their kernels sum in fp32.

    Args:
        graph: the operators.
        data: values that depend on the pixels.

    Returns:
        Operators that should compute in fp32; squares that no root is taken of are not among them.
    """
    found: set[ir.Node] = set()
    for node in graph:
        if is_square(node, data):
            chain: set[ir.Node] = set()
            if _collect(node, chain, data, rooted=node.op_type in _ROOTED):
                found |= chain
    return found


def is_square(node: ir.Node, data: Collection[ir.Value]) -> bool:
    """Whether an operator gives squares of picture data, or their sums or roots."""
    first = node.inputs[0] if node.inputs else None
    if first not in data:
        return False
    if node.op_type == "Mul":
        return node.inputs[1] is first
    if node.op_type == "Pow":
        return _exponent(node) == 2
    return node.op_type in ("ReduceL2", "ReduceSumSquare")


def _is_root(node: ir.Node) -> bool:
    return node.op_type == "Sqrt" or (node.op_type == "Pow" and _exponent(node) == 0.5)


def _exponent(node: ir.Node) -> float | None:
    """The one constant exponent of a Pow."""
    exponent = node.inputs[1].const_value if node.inputs[1] is not None else None
    return float(exponent.numpy().item()) if exponent is not None and exponent.size == 1 else None


def _collect(
    node: ir.Node, chain: set[ir.Node], data: Collection[ir.Value], *, rooted: bool
) -> bool:
    """Follow a sum of squares to the division by its root; whether there is one on every way."""
    chain.add(node)
    users = [use.node for value in node.outputs for use in value.uses()]
    if not users:
        return False
    for user in users:
        alone = all(value is node.outputs[0] or value not in data for value in user.inputs)
        if rooted and user.op_type in ("Div", "Mul") and not alone:
            chain.add(user)  # the division of the features
        elif _is_root(user) or (rooted and user.op_type == "Reciprocal"):
            if not _collect(user, chain, data, rooted=True):
                return False
        elif not (alone and user.op_type in _SUMMED and _collect(user, chain, data, rooted=rooted)):
            return False
    return True
