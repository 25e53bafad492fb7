"""The network as a graph of operations, with the layer behind each weight."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.models.restoration import COLOURS, run_once
from sls_deploy.sparsity.filters import Layout

_aten = torch.ops.aten
KINDS: dict[Any, str] = {
    _aten.conv1d.default: "Conv1d",
    _aten.conv1d.padding: "Conv1d",
    _aten.conv2d.default: "Conv2d",
    _aten.conv2d.padding: "Conv2d",
    _aten.conv_transpose1d.default: "ConvTranspose1d",
    _aten.conv_transpose2d.input: "ConvTranspose2d",
    _aten.linear.default: "Linear",
}
"""Operations whose second argument is a layer's weight, with the module that they are of."""
_PREFIX = "network."
Size = tuple[int, int]
"""Rows and columns."""


class Trace:
    """The operations of a network in the order in which they run, as `torch.export` sees them.

    They take pictures of one size and number: many networks compute with the number of pictures as
    if it were a constant, windows of attention for example. `of` gives them for another number.

    Args:
        program: the exported model.
        model: the model.
    """

    def __init__(self, program: torch.export.ExportedProgram, model: RestorationModel) -> None:
        self._model = model
        self._others: dict[int, Trace] = {}
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = {**signature.inputs_to_lifted_tensor_constants}
        nodes = list(program.graph.nodes)
        self.input: fx.Node = next(node for node in nodes if node.name in signature.user_inputs)
        self.output: fx.Node = nodes[-1].args[0][0]
        needed = _needed(nodes, self.output)
        self.nodes = [node for node in nodes if node.op == "call_function" and node in needed]
        """Those that the restored picture depends on."""
        own: dict[str, Tensor] = {
            **dict(model.network.named_parameters(remove_duplicate=False)),
            **dict(model.network.named_buffers(remove_duplicate=False)),
        }
        first = {id(value): name for name, value in reversed(own.items())}
        names = {key: name.removeprefix(_PREFIX) for key, name in named.items()}
        # Of several names of one weight the first is the one that all else goes by.
        self._parameters = {
            key: first[id(own[name])] if name in own else name for key, name in names.items()
        }
        self._constants = {key: program.constants[name] for key, name in constants.items()}
        self.weighted: list[fx.Node] = [node for node in self.nodes if node.target in KINDS]
        """Convolutions and linear layers, in order."""
        self.uses: dict[str, list[fx.Node]] = {}
        """Where the weight of each layer is used, in order."""
        for node in self.weighted:
            name = self.parameter(node.args[1])
            if name and name.endswith(".weight"):
                self.uses.setdefault(name.removesuffix(".weight"), []).append(node)

    @property
    def sizes(self) -> dict[str, tuple[Size, ...]]:
        """Rows and columns of places at which each layer is applied, use by use."""
        sizes: dict[str, tuple[Size, ...]] = {}
        for node in self.weighted:
            name, _ = self.layer_of(node)
            sizes[name] = (*sizes.get(name, ()), size_of(node))
        return sizes

    def layer_of(self, node: fx.Node) -> tuple[str, str]:
        """Names of the layer of a convolution or linear operation, and of its weight.

        The second is empty if the weight is computed, or is no parameter called weight.
        """
        key = self.parameter(node.args[1]) or ""
        parameter = key if key.endswith(".weight") else ""
        return parameter.removesuffix(".weight") or key or node.name, parameter

    @property
    def shape(self) -> torch.Size:
        """Shape of the pictures, NCHW."""
        shape: torch.Size = self.input.meta["val"].shape
        return shape

    def of(self, pictures: int) -> Trace:
        """The same operations on another number of pictures."""
        if pictures == self.shape[0]:
            return self
        if pictures not in self._others:
            height, width = self.shape[2:]
            self._others[pictures] = trace(self._model, (height, width), pictures)
        return self._others[pictures]

    def parameter(self, value: Any) -> str | None:
        """Name of the parameter or buffer of the raw network that a value stands for."""
        return self._parameters.get(value.name) if isinstance(value, fx.Node) else None

    def state(self, model: RestorationModel) -> dict[str, Tensor]:
        """Values of parameters, buffers and constants of a model, by name of their node."""
        own = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
        return {key: own[name] for key, name in self._parameters.items()} | self._constants

    def layout(self, layer: str) -> Layout:
        """How the weight of a layer lies."""
        return layout_of(self.uses[layer][0])


def layout_of(node: fx.Node) -> Layout:
    """How the weight of a convolution or linear layer lies."""
    kind = KINDS[node.target]
    groups = node.args[6] if kind != "Linear" and len(node.args) > 6 else 1
    assert isinstance(groups, int)  # noqa: S101 - a constant of the graph
    return Layout(groups, kind.startswith("ConvTranspose"))


def size_of(node: fx.Node) -> Size:
    """Rows and columns of places at which a layer's weights are used.

    What else a value has, such as more pictures or windows, counts as further rows.
    """
    kind = KINDS[node.target]
    of = node.args[0] if kind.startswith("ConvTranspose") else node
    assert isinstance(of, fx.Node)  # noqa: S101 - what a layer works on is a value of the graph
    sizes = list(of.meta["val"].shape)
    del sizes[-1 if kind == "Linear" else -len(_kernel(node)) - 1]
    return math.prod(sizes[:-1]), sizes[-1]


def stride_of(node: fx.Node) -> tuple[int, ...]:
    """Steps of a convolution's kernel, one for each of its sizes; none for a linear layer."""
    return _for_each_side(node, 3)


def dilation_of(node: fx.Node) -> tuple[int, ...]:
    """Distances of the taps of a convolution's kernel, one for each of its sizes."""
    return _for_each_side(node, 7 if KINDS[node.target].startswith("ConvTranspose") else 5)


def _for_each_side(node: fx.Node, place: int) -> tuple[int, ...]:
    """A convolution's argument at some place, ones if it was left out."""
    sides = len(_kernel(node))
    given: Any = node.args[place] if sides and len(node.args) > place else [1]
    values = tuple(given)
    return values * sides if len(values) == 1 else values


def trace(
    model: RestorationModel,
    size: int | tuple[int, int],
    pictures: int = 1,
    *,
    only_looked_at: bool = False,
) -> Trace:
    """Trace a network for pictures of one size.

    Args:
        model: the network.
        size: height and width of the pictures in pixels; one number for both.
        pictures: how many there are; `Trace.of` gives the same for others.
        only_looked_at: the model never runs on pictures of this size afterwards. Else it runs once
            before, so that what it keeps for a size is real, which takes its time for large ones.

    Raises:
        SlsError: its operations depend on the values in the pictures, or memory does not hold them.
    """
    sides = (size, size) if isinstance(size, int) else size
    try:
        example = torch.zeros(pictures, COLOURS * model.description.frames, *sides)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are of the network, which runs as it did
            if not only_looked_at:
                run_once(model, example)
            program = torch.export.export(model.eval(), (example,), strict=False)
        nested = [node.name for node in program.graph.nodes if node.op == "get_attr"]
        if nested:
            raise ValueError(f"it has graphs inside its graph, such as {nested[0]}")
    except Exception as error:  # the tracer raises many kinds
        reason = str(error).strip().partition("\n")[0]
        fix = "Use --method sls, which needs no graph."
        raise SlsError(f"cannot be traced ({reason})", model.description.name, fix) from None
    return Trace(program, model)


def _needed(nodes: list[fx.Node], output: fx.Node) -> set[fx.Node]:
    """What the output is computed from, with what works in place on memory that it reads."""
    memory: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        shares = _shares_memory(node) and node.all_input_nodes
        memory[node] = memory[node.all_input_nodes[0]] if shares else node
    needed, read = {output}, {memory[output]}
    while True:
        before = len(needed)
        for node in reversed(nodes):
            if node in needed or (_writes(node) and memory[node] in read):
                needed |= {node, *node.all_input_nodes}
                read |= {memory[item] for item in (node, *node.all_input_nodes)}
        if len(needed) == before:
            return needed


def _shares_memory(node: fx.Node) -> bool:
    """Whether a node gives its first input again, or a view of it."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    return any(given.alias_info is not None for given in schema.returns)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _kernel(node: fx.Node) -> tuple[int, ...]:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)  # noqa: S101 - a weight is a value of the graph
    return tuple(weight.meta["val"].shape[2:])


class Walk:
    """The values of a network on some pictures, one operation after the other.

    A value is dropped after its last use, so only what is still needed is held.

    Args:
        graph: the operations.
        state: from `Trace.state`; weights that change on the way change here.
        pictures: NCHW, 0..1.
    """

    def __init__(self, graph: Trace, state: Mapping[str, Tensor], pictures: Tensor) -> None:
        self.values: dict[str, Any] = {**state, graph.input.name: pictures}
        self._last = {item.name: node for node in graph.nodes for item in node.all_input_nodes}
        self._held = set(state) | {graph.output.name}

    def arguments(self, node: fx.Node) -> tuple[Any, ...]:
        """What an operation is about to be called with."""
        return fx.map_arg(node.args, lambda item: self.values[item.name])

    def step(self, node: fx.Node) -> Any:
        """Run the next operation."""
        assert callable(node.target)  # noqa: S101 - every node of Trace.nodes calls something
        keywords: Any = fx.map_arg(node.kwargs, lambda item: self.values[item.name])
        result = self.values[node.name] = node.target(*self.arguments(node), **keywords)
        return result

    def forget(self, node: fx.Node) -> None:
        """Drop the values that were needed last by this operation."""
        for item in node.all_input_nodes:
            if self._last[item.name] is node and item.name not in self._held:
                self.values.pop(item.name, None)

    def replace(self, parameter: Any, value: Tensor) -> None:
        """Use another value for a parameter from now on."""
        self.values[parameter.name] = value

    @property
    def bytes_held(self) -> int:
        """Size of the values that are held now, weights left out."""
        held = [value for name, value in self.values.items() if name not in self._held]
        return sum(value.nbytes for value in tree_leaves(held) if isinstance(value, Tensor))
