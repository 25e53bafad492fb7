"""Follows channels through the operations of a network, to find which may change places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from sls_deploy.search.channel_moves import MOVES, UnknownError, Value, shape, whole
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


def find_streams(trace: Trace) -> list[Stream]:
    """Find the sets of channels that may change places without changing the network's output.

    One order holds for a whole residual stream, and for each segment of a concatenation. Channels
    of a group convolution stay in their group, blocks of r*r stay together in front of a pixel
    shuffle. Normalisations, PReLU, attention over channels and scaling by parameters follow.
    The network's input and output, and whatever an operation that is not known here touches, stay
    where they are.
    """
    flow = Flow(trace)
    for node in trace.nodes:
        flow.visit(node)
    flow.stay(trace.output)
    return flow.channels.streams()


class Flow:
    """What is known of each value on the way through the network."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.channels = trace, Channels()
        self.values: dict[str, Any] = {}
        """By node: a `Value`, a list of them for several outputs, None where nothing moves."""
        self.rules: dict[str, Callable[[fx.Node], Any]] = {
            **dict.fromkeys(_POINTWISE.split(), self._each),
            **dict.fromkeys(_RESIZING.split(), self.sides),
            **dict.fromkeys(_REDUCTIONS.split(), self._reduction),
            **dict.fromkeys(("batch_norm", "instance_norm"), self._batch_norm),
            **dict.fromkeys(("pad", "constant_pad_nd"), self._pad),
            "prelu": self._prelu,
            "group_norm": self._group_norm,
            "layer_norm": self._layer_norm,
            "softmax": self._softmax,
        }

    def visit(self, node: fx.Node) -> None:
        """Find where the channels of an operation's result come from."""
        operation = str(getattr(node.target, "__name__", node.target)).removeprefix("aten.")
        name = operation.partition(".")[0].removesuffix("_")  # in place or not is the same
        rule = self._layer if node.target in KINDS else self.rules.get(name)
        try:
            if rule is not None:
                self.values[node.name] = rule(node)
            elif name in MOVES:
                self.values[node.name] = MOVES[name](self, node)
            else:
                raise UnknownError
        except UnknownError:
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

    def known(self, node: Any) -> Value:
        """The channels of a value, or of a parameter that holds one value for each."""
        value = self.find(node)
        if value is None:
            raise UnknownError
        return value

    def find(self, node: Any) -> Value | None:
        """The same, or None where there are none that could move."""
        value = self.values.get(node.name)
        if isinstance(value, Value):
            return value
        name, sizes = self.trace.parameter(node), shape(node)
        long = [dimension for dimension, size in enumerate(sizes) if size > 1]
        if name is None or len(long) != 1 or name.removesuffix(".weight") in self.trace.uses:
            return None
        return Value(long[0], self.channels.along(Axis(name, "own"), sizes[long[0]]))

    def tie_parameters(self, parameters: Sequence[Any], numbers: Numbers) -> None:
        """Tie parameters that hold one value for each channel."""
        for parameter in parameters:
            if parameter is None or math.prod(shape(parameter)) == 1:
                continue
            own = self.known(parameter).numbers
            if len(own) != len(numbers):
                raise UnknownError
            self.channels.tie(own, numbers)

    # Layers and normalisations.

    def _layer(self, node: fx.Node) -> Value:
        inputs, weight, *rest = node.args
        name, linear = self.trace.parameter(weight), KINDS[node.target] == "Linear"
        rank = len(shape(inputs))
        if name is None or not (linear or rank == len(shape(weight))):
            raise UnknownError
        dimension = rank - 1 if linear else 1
        read, written = self.read(inputs, dimension), shape(node)[dimension]
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
        self.values[node.name] = Value(dimension, result)  # so that it stays if its bias is odd
        if rest and isinstance(rest[0], fx.Node):
            bias = self.find(rest[0])
            if bias is None or len(bias.numbers) != written:
                self.channels.fix(result)
                self.stay(rest[0])
            else:
                self.channels.tie(bias.numbers, result)
        return Value(dimension, result)

    def read(self, inputs: Any, dimension: int) -> Numbers:
        """What a layer reads; channels that stay where they are not known."""
        value = self.find(inputs)
        if value is not None and value.dimension == dimension:
            return value.numbers
        self.stay(inputs)
        numbers = self.channels.new(shape(inputs)[dimension])
        self.channels.fix(numbers)
        return numbers

    def _batch_norm(self, node: fx.Node) -> Value:
        value = self.known(node.args[0])
        if value.dimension != 1:
            raise UnknownError
        self.tie_parameters(node.args[1:5], value.numbers)
        return value

    def _prelu(self, node: fx.Node) -> Value:
        value = self.known(node.args[0])
        if value.dimension != 1:
            raise UnknownError
        self.tie_parameters(node.args[1:2], value.numbers)
        return value

    def _group_norm(self, node: fx.Node) -> Value:
        value = self.known(node.args[0])
        if value.dimension != 1:
            raise UnknownError
        self.tie_parameters(node.args[2:4], value.numbers)
        for group, part in enumerate(np.split(value.numbers, whole(node.args[1]))):
            self.channels.adds_up(f"{node.name}/{group}", part)
        return value

    def _layer_norm(self, node: fx.Node) -> Value:
        value, over = self.known(node.args[0]), node.args[1]
        if not isinstance(over, list) or len(over) != 1 or value.dimension != len(shape(node)) - 1:
            raise UnknownError
        self.tie_parameters(node.args[2:4], value.numbers)
        self.channels.adds_up(node.name, value.numbers)
        return value

    # Operations on each value.

    def _each(self, node: fx.Node) -> Value:
        """Tie what lies at the same place after broadcasting, counted from the last dimension."""
        rank = len(shape(node))
        found: list[Value] = []
        for item in node.all_input_nodes:
            value = self.find(item)
            if value is not None and len(value.numbers) > 1:
                found.append(Value(value.dimension + rank - len(shape(item)), value.numbers))
        if not found or any(
            item.dimension != found[0].dimension or len(item.numbers) != len(found[0].numbers)
            for item in found
        ):
            raise UnknownError
        for item in node.all_input_nodes:
            at = found[0].dimension - rank + len(shape(item))
            if self.find(item) is None and at >= 0 and shape(item)[at : at + 1] not in ([], [1]):
                raise UnknownError
        for value in found[1:]:
            self.channels.tie(value.numbers, found[0].numbers)
        return found[0]

    def sides(self, node: fx.Node) -> Value:
        """The channels of what works on the two last dimensions."""
        value = self.known(node.args[0])
        if value.dimension != len(shape(node)) - 3:
            raise UnknownError
        return value

    def _pad(self, node: fx.Node) -> Value:
        value, sides = self.known(node.args[0]), node.args[1]
        if not isinstance(sides, list) or value.dimension >= len(shape(node)) - len(sides) // 2:
            raise UnknownError
        return value

    def _reduction(self, node: fx.Node) -> Value | None:
        value = self.known(node.args[0])
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if not isinstance(given, (int, list)):
            raise UnknownError
        rank = len(shape(node.args[0]))
        over = [whole(item) % rank for item in ([given] if isinstance(given, int) else given)]
        if value.dimension in over:
            self.channels.adds_up(node.name, value.numbers)
            return None
        gone = sum(item < value.dimension for item in over) if len(shape(node)) < rank else 0
        return Value(value.dimension - gone, value.numbers)

    def _softmax(self, node: fx.Node) -> Value:
        value = self.known(node.args[0])
        if whole(node.args[1]) % len(shape(node)) == value.dimension:
            self.channels.adds_up(node.name, value.numbers)
        return value
