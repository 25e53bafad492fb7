"""What operations that move channels do to them: concatenation, slices, reshapes, shuffles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, fx

from sls_deploy.search.channels import Numbers

if TYPE_CHECKING:
    from sls_deploy.search.channel_flow import Flow

_RESHAPES = "view reshape flatten unflatten squeeze unsqueeze _unsafe_view"


class Value(NamedTuple):
    """Where the channels of a value are."""

    dimension: int
    """Dimension that they lie along."""
    numbers: Numbers
    """The channels."""


class UnknownError(Exception):
    """An operation of which is not known what it does to channels."""


def whole(value: Any) -> int:
    """A constant of the graph."""
    if not isinstance(value, int):
        raise UnknownError
    return value


def shape(value: Any) -> list[int]:
    """Sizes of a tensor; empty for anything else."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return list(found.shape) if isinstance(found, Tensor) else []


def _cat(flow: Flow, node: fx.Node) -> Value:
    parts = node.args[0]
    assert isinstance(parts, list)  # noqa: S101 - of tensors
    dimension = whole(node.args[1]) % len(shape(node)) if len(node.args) > 1 else 0
    values = [flow.find(part) for part in parts]
    along = {value.dimension for value in values if value is not None}
    if along == {dimension}:
        numbers = [flow.read(part, dimension) for part in parts]
        return Value(dimension, np.concatenate(numbers))
    if len(along) != 1 or None in values:
        raise UnknownError
    first, *others = (flow.known(part) for part in parts)
    for value in others:
        flow.channels.tie(value.numbers, first.numbers)
    return first


def _slice(flow: Flow, node: fx.Node) -> Value:
    value = flow.known(node.args[0])
    given: list[Any] = list(node.args[1:])
    dimension, start, stop, step = given + [0, None, None, 1][len(given) :]
    if whole(dimension) % len(shape(node)) != value.dimension:
        return value
    flow.channels.adds_up(node.name, value.numbers)
    return Value(value.dimension, value.numbers[slice(start, stop, step)])


def _split(flow: Flow, node: fx.Node) -> list[Value]:
    value, outputs = flow.known(node.args[0]), node.meta["val"]
    dimension = whole(node.args[2]) if len(node.args) > 2 else 0
    if dimension % outputs[0].dim() != value.dimension:
        return [value] * len(outputs)
    flow.channels.adds_up(node.name, value.numbers)
    ends = np.cumsum([output.shape[value.dimension] for output in outputs])[:-1]
    return [Value(value.dimension, part) for part in np.split(value.numbers, ends)]


def _item(flow: Flow, node: fx.Node) -> Value:
    source, place = node.args
    value = flow.values.get(source.name) if isinstance(source, fx.Node) else None
    if not isinstance(value, list):
        raise UnknownError
    part: Value = value[whole(place)]
    return part


def _select(flow: Flow, node: fx.Node) -> Value:
    value = flow.known(node.args[0])
    dimension = whole(node.args[1]) % len(shape(node.args[0]))
    if dimension == value.dimension:
        raise UnknownError
    return Value(value.dimension - (dimension < value.dimension), value.numbers)


def _permute(flow: Flow, node: fx.Node) -> Value:
    value, order, rank = flow.known(node.args[0]), node.args[1], len(shape(node))
    assert isinstance(order, list)  # noqa: S101 - of dimensions
    return Value([whole(item) % rank for item in order].index(value.dimension), value.numbers)


def _transpose(flow: Flow, node: fx.Node) -> Value:
    value, rank = flow.known(node.args[0]), len(shape(node))
    first, second = (whole(item) % rank for item in node.args[1:3])
    moved = {first: second, second: first}.get(value.dimension, value.dimension)
    return Value(moved, value.numbers)


def _reshape(flow: Flow, node: fx.Node) -> Value:
    """Channels that stay a dimension of their own: as many values lie in front of them."""
    value = flow.known(node.args[0])
    front = math.prod(shape(node.args[0])[: value.dimension])
    after = shape(node)
    for dimension, size in enumerate(after):
        if size == len(value.numbers) and math.prod(after[:dimension]) == front:
            flow.channels.adds_up(node.name, value.numbers)
            return Value(dimension, value.numbers)
    raise UnknownError


def _expand(flow: Flow, node: fx.Node) -> Value:
    value = flow.known(node.args[0])
    if len(value.numbers) == 1:
        raise UnknownError
    added = len(shape(node)) - len(shape(node.args[0]))
    return Value(value.dimension + added, value.numbers)


def _pixel_shuffle(flow: Flow, node: fx.Node) -> Value:
    value = flow.sides(node)
    block = whole(node.args[1]) ** 2
    result = flow.channels.new(len(value.numbers) // block)
    flow.channels.tie(np.repeat(result, block), value.numbers)
    return Value(value.dimension, result)


def _pixel_unshuffle(flow: Flow, node: fx.Node) -> Value:
    value = flow.sides(node)
    return Value(value.dimension, np.repeat(value.numbers, whole(node.args[1]) ** 2))


MOVES: dict[str, Callable[[Flow, fx.Node], Any]] = {
    **dict.fromkeys(_RESHAPES.split(), _reshape),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "cat": _cat,
    "slice": _slice,
    "getitem": _item,
    "select": _select,
    "permute": _permute,
    "transpose": _transpose,
    "expand": _expand,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}
"""Rules by the operation's name."""
