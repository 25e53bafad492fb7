"""Channels inside blocks that only prunable convolutions see: they can be dropped for real."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from sls_deploy.search.trace import Trace

_ACTIVATIONS = (
    "relu relu6 leaky_relu gelu silu mish elu celu selu sigmoid tanh softplus hardtanh hardswish "
    "hardsigmoid clamp clamp_min clamp_max abs dropout feature_dropout clone contiguous detach"
)
_RESIZING = (
    "max_pool2d avg_pool2d adaptive_avg_pool2d reflection_pad2d replication_pad2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d"
)
_ARITHMETIC = "add sub rsub mul div"
_CHANNELWISE = frozenset(f"{_ACTIVATIONS} {_RESIZING} {_ARITHMETIC}".split())
"""Operations of ATen whose output channel i depends on channel i of their operands alone."""
_CONVOLUTIONS = ("conv2d.default", "conv2d.padding")
_PICTURE = 4
"""Dimensions of a value with channels: NCHW."""
_CONVOLUTION = ("weight", "bias")
"""What follows the first operand of a convolution."""
_NORMALISATION = (*_CONVOLUTION, "running_mean", "running_var")
"""What follows the first operand of a batch normalisation or, as far as there is, of a PReLU."""


@dataclass(frozen=True)
class Interior:
    """One set of channels that can be made smaller: all its modules keep the same ones."""

    producers: tuple[str, ...]
    """Convolutions whose output channels they are, in the order of first use."""
    consumers: tuple[str, ...]
    """Convolutions whose input channels they are; all that read them."""
    channels: int
    """How many there are."""
    between: tuple[str, ...]
    """Batch normalisations and PReLUs that hold a value for each channel."""


def find_interiors(trace: Trace, prunable: Collection[str]) -> list[Interior]:
    """Find the sets of channels that only prunable convolutions write and read.

    Values whose channels correspond one to one, through operations that work on each channel
    alone, share one set; so do all uses of a shared module. Adding or multiplying two values ties
    their sets. Whatever else touches a set ends it: the input and output of the network, layers
    that are not prunable, concatenation, shuffles, reshapes, sums over channels, attention,
    parameters used in any other way, and group convolutions, depthwise ones included.

    Args:
        trace: the network's operations.
        prunable: names of the layers whose channels may be dropped.

    Returns:
        Interiors in the order of their first producer; no two share channels.
    """
    sets = _ChannelSets(trace, prunable)
    for node in trace.nodes:
        sets.visit(node)
    return sets.interiors()


def kept_channels(
    chosen: Iterable[tuple[Interior, Tensor]],
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """What every module keeps, in the form that `sls_deploy.models.narrow.select` takes.

    Args:
        chosen: interiors, each with the channels that it keeps: int64 indices, ascending.
    """
    kept: dict[str, tuple[Tensor | None, Tensor | None]] = {}
    for interior, index in chosen:
        for name in (*interior.producers, *interior.between):
            kept[name] = (index, kept.get(name, (None, None))[1])
        for name in interior.consumers:
            kept[name] = (kept.get(name, (None, None))[0], index)
    return kept


class _ChannelSets:
    """Union-find over values (by the name of their node) and ends of modules ('name:out')."""

    def __init__(self, trace: Trace, prunable: Collection[str]) -> None:
        self.trace, self.prunable = trace, prunable
        self.parent: dict[str, str] = {}
        self.ended = {trace.input.name, trace.output.name}
        self.producers: dict[str, int] = {}
        """Convolutions, in the order of first use, with their output channels."""
        self.between: dict[str, None] = {}

    def find(self, key: str) -> str:
        while (above := self.parent.get(key, key)) != key:
            self.parent[key] = self.parent.get(above, above)
            key = above
        return key

    def tie(self, first: str, second: str) -> None:
        self.parent[self.find(first)] = self.find(second)

    def visit(self, node: fx.Node) -> None:
        operation = str(node.target).removeprefix("aten.")
        name = operation.partition(".")[0].removesuffix("_")  # in place or not is the same
        if name == "sym_size":
            return  # asks for the height, the width or the batch: channels are constants
        if operation in _CONVOLUTIONS and self._is_plain(node):
            self._convolution(node)
        elif name in ("batch_norm", "prelu") and (owner := self._owner(node, _NORMALISATION)):
            self._normalisation(node, owner)
        elif _rank(node) == _PICTURE and (name in _CHANNELWISE or _keeps_channels(name, node)):
            self._channelwise(node)
        else:
            self._end(node, *node.all_input_nodes)

    def _owner(self, node: fx.Node, own: tuple[str, ...]) -> str:
        """The one module whose parameters of these names follow the first operand, or ''."""
        given = zip(node.args[1:], own, strict=False)
        named = [(self.trace.parameter(value) or "", key) for value, key in given if value]
        owners = {name.rpartition(".")[0] for name, _ in named}
        right = all(name.rpartition(".")[2] == key for name, key in named)
        picture = self.trace.parameter(node.args[0]) is None
        alone = right and picture and len(owners) == 1 and not node.kwargs
        return owners.pop() if alone else ""

    def _is_plain(self, node: fx.Node) -> bool:
        """Whether a convolution is prunable, ungrouped, and its parameters its own."""
        if self._owner(node, _CONVOLUTION) not in self.prunable:
            return False
        inputs, weight, *_ = node.all_input_nodes
        return bool(inputs.meta["val"].shape[1] == weight.meta["val"].shape[1])

    def _convolution(self, node: fx.Node) -> None:
        name = self._owner(node, _CONVOLUTION)
        self.producers[name] = int(node.meta["val"].shape[1])
        self.tie(node.all_input_nodes[0].name, f"{name}:in")
        self.tie(node.name, f"{name}:out")

    def _normalisation(self, node: fx.Node, owner: str) -> None:
        """An operation with a value for each channel in a module: all uses of it are tied."""
        inputs, weight, *_ = node.all_input_nodes
        self.tie(inputs.name, node.name)
        if weight.meta["val"].numel() > 1:  # a PReLU may have one for all
            self.between[owner] = None
            self.tie(node.name, f"{owner}:out")

    def _channelwise(self, node: fx.Node) -> None:
        channels = node.meta["val"].shape[1]
        for operand in node.all_input_nodes:
            value: Any = operand.meta.get("val")
            if _rank(operand) == _PICTURE and value.shape[1] == channels:
                self.tie(operand.name, node.name)
                if operand.op != "call_function":
                    self._end(operand)  # a parameter or constant with a value for each channel
            elif _rank(operand) == _PICTURE - 1 and value.shape[0] == channels:
                self._end(node, operand)
            else:
                self._end(operand)  # the same for all channels: its own are no set

    def _end(self, *values: fx.Node) -> None:
        for value in values:
            self.ended.add(value.name)
            if parameter := self.trace.parameter(value):
                owner = parameter.rpartition(".")[0]
                self.ended |= {f"{owner}:in", f"{owner}:out"}

    def interiors(self) -> list[Interior]:
        ended = {self.find(key) for key in self.ended}
        found: dict[str, Interior] = {}
        for name, channels in self.producers.items():
            root = self.find(f"{name}:out")
            consumers = self._members(self.producers, "in", root)
            if root in ended or root in found or not consumers:
                continue
            producers = self._members(self.producers, "out", root)
            between = self._members(self.between, "out", root)
            found[root] = Interior(producers, consumers, channels, between)
        return list(found.values())

    def _members(self, names: Iterable[str], end: str, root: str) -> tuple[str, ...]:
        return tuple(name for name in names if self.find(f"{name}:{end}") == root)


def _rank(node: fx.Node) -> int:
    """Dimensions of a tensor; 0 of anything else."""
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0


def _keeps_channels(name: str, node: fx.Node) -> bool:
    """Whether a mean or a padding leaves the channels alone."""
    sizes = node.args[1] if len(node.args) > 1 else None
    if not isinstance(sizes, (list, tuple)) or not sizes:
        return False
    if name == "mean":
        return all(dimension in (2, 3, -1, -2) for dimension in sizes)
    return name in ("pad", "constant_pad_nd") and len(sizes) <= _PICTURE
