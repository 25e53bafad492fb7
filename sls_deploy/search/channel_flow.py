"""Follows channels through the operations of a network, to find which may change places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx

from sls_deploy.search.channels import Axis, Channels, Numbers, Stream
from sls_deploy.search.trace import KINDS, Trace, layout_of

_POINTWISE = (
    "relu relu6 leaky_relu gelu silu mish elu celu selu sigmoid tanh softplus hardtanh hardswish "
    "hardsigmoid clamp clamp_min clamp_max abs neg exp sqrt rsqrt square pow reciprocal dropout "
    "feature_dropout clone contiguous detach to _to_copy "
    "add sub rsub mul div maximum minimum where"
)
"""Operations that work on every value by itself, or on values that lie at the same place."""
_RESIZING = (
    "max_pool2d avg_pool2d adaptive_avg_pool2d reflection_pad2d replication_pad2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d"
)
"""Operations on the two last dimensions, each channel by itself."""
_REDUCTIONS = "mean sum amax amin var std"
_RESHAPES = "view reshape flatten unflatten squeeze unsqueeze _unsafe_view"


class _Value(NamedTuple):
    """Where the channels of a value are."""

    dimension: int
    """Dimension that they lie along."""
    numbers: Numbers
    """The channels."""


class _UnknownError(Exception):
    """An operation of which is not known what it does to channels."""


def find_streams(trace: Trace) -> list[Stream]:
    """Find the sets of channels that may change places without changing the network's output.

    One order holds for a whole residual stream, and for each segment of a concatenation. Channels
    of a group convolution stay in their group, blocks of r*r stay together in front of a pixel
    shuffle. Normalisations, PReLU, attention over channels and scaling by parameters follow.
    The network's input and output, and whatever an operation that is not known here touches, stay
    where they are.
    """
    flow = _Flow(trace)
    for node in trace.nodes:
        flow.visit(node)
    flow.stay(trace.output)
    return flow.channels.streams()


class _Flow:
    """What is known of each value on the way through the network."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.channels = trace, Channels()
        self.values: dict[str, Any] = {}
        """By node: a `_Value`, a list of them for several outputs, None where nothing moves."""
        self.rules: dict[str, Callable[[fx.Node], Any]] = {
            **dict.fromkeys(_POINTWISE.split(), self._each),
            **dict.fromkeys(_RESIZING.split(), self._sides),
            **dict.fromkeys(_REDUCTIONS.split(), self._reduction),
            **dict.fromkeys(_RESHAPES.split(), self._reshape),
            **dict.fromkeys(("batch_norm", "instance_norm"), self._batch_norm),
            **dict.fromkeys(("split", "split_with_sizes", "chunk"), self._split),
            **dict.fromkeys(("pad", "constant_pad_nd"), self._pad),
            "prelu": self._prelu,
            "group_norm": self._group_norm,
            "layer_norm": self._layer_norm,
            "softmax": self._softmax,
            "cat": self._cat,
            "slice": self._slice,
            "getitem": self._item,
            "select": self._select,
            "permute": self._permute,
            "transpose": self._transpose,
            "expand": self._expand,
            "pixel_shuffle": self._pixel_shuffle,
            "pixel_unshuffle": self._pixel_unshuffle,
        }

    def visit(self, node: fx.Node) -> None:
        """Find where the channels of an operation's result come from."""
        operation = str(getattr(node.target, "__name__", node.target)).removeprefix("aten.")
        name = operation.partition(".")[0].removesuffix("_")  # in place or not is the same
        rule = self._layer if node.target in KINDS else self.rules.get(name)
        try:
            if rule is None:
                raise _UnknownError
            self.values[node.name] = rule(node)
        except _UnknownError:
            for operand in node.all_input_nodes:
                self.stay(operand)
            self.values[node.name] = None

    def stay(self, node: fx.Node) -> None:
        """Fix all channels of a value, or of a parameter that is used in an unknown way."""
        value = self.values.get(node.name)
        for part in value if isinstance(value, list) else [value]:
            if part is not None:
                self.channels.fix(part.numbers)
        if name := self.trace.parameter(node):
            self.channels.forbid(name)

    def known(self, node: Any) -> _Value:
        """The channels of a value, or of a parameter that holds one value for each."""
        value = self.find(node)
        if value is None:
            raise _UnknownError
        return value

    def find(self, node: Any) -> _Value | None:
        """The same, or None where there are none that could move."""
        value = self.values.get(node.name)
        if isinstance(value, _Value):
            return value
        name, shape = self.trace.parameter(node), _shape(node)
        long = [dimension for dimension, size in enumerate(shape) if size > 1]
        if name is None or len(long) != 1:
            return None
        return _Value(long[0], self.channels.along(Axis(name, "own"), shape[long[0]]))

    def tie_parameters(self, parameters: Sequence[Any], numbers: Numbers) -> None:
        """Tie parameters that hold one value for each channel."""
        for parameter in parameters:
            if parameter is None or math.prod(_shape(parameter)) == 1:
                continue
            own = self.known(parameter).numbers
            if len(own) != len(numbers):
                raise _UnknownError
            self.channels.tie(own, numbers)

    # Layers and normalisations.

    def _layer(self, node: fx.Node) -> _Value:
        inputs, weight, *rest = node.args
        name, linear = self.trace.parameter(weight), KINDS[node.target] == "Linear"
        rank = len(_shape(inputs))
        if name is None or not (linear or rank == len(_shape(weight))):
            raise _UnknownError
        dimension = rank - 1 if linear else 1
        read, written = self._read(inputs, dimension), _shape(node)[dimension]
        groups = layout_of(node).groups
        if groups == len(read) > 1:  # depthwise: every channel has filters of its own
            result = self.channels.along(Axis(name, "own"), written)
            self.channels.tie(np.repeat(read, written // groups), result)
        else:
            parts = []
            for group, part in enumerate(np.split(read, groups)):
                self.channels.tie(self.channels.along(Axis(name, "in", group), len(part)), part)
                parts.append(self.channels.along(Axis(name, "out", group), written // groups))
            result = np.concatenate(parts)
        self.values[node.name] = _Value(dimension, result)  # so that it stays if its bias is odd
        if rest and isinstance(rest[0], fx.Node):
            bias = self.find(rest[0])
            if bias is None or len(bias.numbers) != written:
                self.channels.fix(result)
                self.stay(rest[0])
            else:
                self.channels.tie(bias.numbers, result)
        return _Value(dimension, result)

    def _read(self, inputs: Any, dimension: int) -> Numbers:
        """What a layer reads; channels that stay where they are not known."""
        value = self.find(inputs)
        if value is not None and value.dimension == dimension:
            return value.numbers
        self.stay(inputs)
        numbers = self.channels.new(_shape(inputs)[dimension])
        self.channels.fix(numbers)
        return numbers

    def _batch_norm(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        if value.dimension != 1:
            raise _UnknownError
        self.tie_parameters(node.args[1:5], value.numbers)
        return value

    def _prelu(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        if value.dimension != 1:
            raise _UnknownError
        self.tie_parameters(node.args[1:2], value.numbers)
        return value

    def _group_norm(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        self.tie_parameters(node.args[2:4], value.numbers)
        for group, part in enumerate(np.split(value.numbers, _whole(node.args[1]))):
            self.channels.adds_up(f"{node.name}/{group}", part)
        return value

    def _layer_norm(self, node: fx.Node) -> _Value:
        value, over = self.known(node.args[0]), node.args[1]
        if not isinstance(over, list) or len(over) != 1 or value.dimension != len(_shape(node)) - 1:
            raise _UnknownError
        self.tie_parameters(node.args[2:4], value.numbers)
        self.channels.adds_up(node.name, value.numbers)
        return value

    # Operations on each value.

    def _each(self, node: fx.Node) -> _Value:
        """Tie what lies at the same place after broadcasting, counted from the last dimension."""
        rank = len(_shape(node))
        found: list[_Value] = []
        for item in node.all_input_nodes:
            value = self.find(item)
            if value is not None and len(value.numbers) > 1:
                found.append(_Value(value.dimension + rank - len(_shape(item)), value.numbers))
        if not found or any(
            item.dimension != found[0].dimension or len(item.numbers) != len(found[0].numbers)
            for item in found
        ):
            raise _UnknownError
        for item in node.all_input_nodes:
            at = found[0].dimension - rank + len(_shape(item))
            if self.find(item) is None and at >= 0 and _shape(item)[at : at + 1] not in ([], [1]):
                raise _UnknownError
        for value in found[1:]:
            self.channels.tie(value.numbers, found[0].numbers)
        return found[0]

    def _sides(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        if value.dimension != len(_shape(node)) - 3:
            raise _UnknownError
        return value

    def _pad(self, node: fx.Node) -> _Value:
        value, sides = self.known(node.args[0]), node.args[1]
        if not isinstance(sides, list) or value.dimension >= len(_shape(node)) - len(sides) // 2:
            raise _UnknownError
        return value

    def _reduction(self, node: fx.Node) -> _Value | None:
        value = self.known(node.args[0])
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(given, (int, list)):
            raise _UnknownError
        rank = len(_shape(node.args[0]))
        over = [_whole(item) % rank for item in ([given] if isinstance(given, int) else given)]
        if value.dimension in over:
            self.channels.adds_up(node.name, value.numbers)
            return None
        gone = sum(item < value.dimension for item in over) if len(_shape(node)) < rank else 0
        return _Value(value.dimension - gone, value.numbers)

    def _softmax(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        if _whole(node.args[1]) % len(_shape(node)) == value.dimension:
            self.channels.adds_up(node.name, value.numbers)
        return value

    # Operations that move channels.

    def _cat(self, node: fx.Node) -> _Value:
        parts = node.args[0]
        assert isinstance(parts, list)  # noqa: S101 - of tensors
        dimension = _whole(node.args[1]) % len(_shape(node)) if len(node.args) > 1 else 0
        values = [self.find(part) for part in parts]
        along = {value.dimension for value in values if value is not None}
        if along == {dimension}:
            numbers = [self._read(part, dimension) for part in parts]
            return _Value(dimension, np.concatenate(numbers))
        if len(along) != 1 or None in values:
            raise _UnknownError
        first, *others = (self.known(part) for part in parts)
        for value in others:
            self.channels.tie(value.numbers, first.numbers)
        return first

    def _slice(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        given: list[Any] = list(node.args[1:])
        dimension, start, stop, step = given + [0, None, None, 1][len(given) :]
        if _whole(dimension) % len(_shape(node)) != value.dimension:
            return value
        self.channels.adds_up(node.name, value.numbers)
        return _Value(value.dimension, value.numbers[slice(start, stop, step)])

    def _split(self, node: fx.Node) -> list[_Value]:
        value, outputs = self.known(node.args[0]), node.meta["val"]
        dimension = _whole(node.args[2]) if len(node.args) > 2 else 0
        if dimension % outputs[0].dim() != value.dimension:
            return [value] * len(outputs)
        self.channels.adds_up(node.name, value.numbers)
        ends = np.cumsum([output.shape[value.dimension] for output in outputs])[:-1]
        return [_Value(value.dimension, part) for part in np.split(value.numbers, ends)]

    def _item(self, node: fx.Node) -> _Value:
        source, place = node.args
        value = self.values.get(source.name) if isinstance(source, fx.Node) else None
        if not isinstance(value, list):
            raise _UnknownError
        part: _Value = value[_whole(place)]
        return part

    def _select(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        dimension = _whole(node.args[1]) % len(_shape(node.args[0]))
        if dimension == value.dimension:
            raise _UnknownError
        return _Value(value.dimension - (dimension < value.dimension), value.numbers)

    def _permute(self, node: fx.Node) -> _Value:
        value, order, rank = self.known(node.args[0]), node.args[1], len(_shape(node))
        assert isinstance(order, list)  # noqa: S101 - of dimensions
        return _Value([_whole(item) % rank for item in order].index(value.dimension), value.numbers)

    def _transpose(self, node: fx.Node) -> _Value:
        value, rank = self.known(node.args[0]), len(_shape(node))
        first, second = (_whole(item) % rank for item in node.args[1:3])
        moved = {first: second, second: first}.get(value.dimension, value.dimension)
        return _Value(moved, value.numbers)

    def _reshape(self, node: fx.Node) -> _Value:
        """Channels that stay a dimension of their own: as many values lie in front of them."""
        value = self.known(node.args[0])
        front = math.prod(_shape(node.args[0])[: value.dimension])
        after = _shape(node)
        for dimension, size in enumerate(after):
            if size == len(value.numbers) and math.prod(after[:dimension]) == front:
                self.channels.adds_up(node.name, value.numbers)
                return _Value(dimension, value.numbers)
        raise _UnknownError

    def _expand(self, node: fx.Node) -> _Value:
        value = self.known(node.args[0])
        if len(value.numbers) == 1:
            raise _UnknownError
        added = len(_shape(node)) - len(_shape(node.args[0]))
        return _Value(value.dimension + added, value.numbers)

    def _pixel_shuffle(self, node: fx.Node) -> _Value:
        value = self._sides(node)
        block = _whole(node.args[1]) ** 2
        result = self.channels.new(len(value.numbers) // block)
        self.channels.tie(np.repeat(result, block), value.numbers)
        return _Value(value.dimension, result)

    def _pixel_unshuffle(self, node: fx.Node) -> _Value:
        value = self._sides(node)
        return _Value(value.dimension, np.repeat(value.numbers, _whole(node.args[1]) ** 2))


def _whole(value: Any) -> int:
    """A constant of the graph."""
    if not isinstance(value, int):
        raise _UnknownError
    return value


def _shape(value: Any) -> list[int]:
    """Sizes of a tensor; empty for anything else."""
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return list(found.shape) if isinstance(found, Tensor) else []
