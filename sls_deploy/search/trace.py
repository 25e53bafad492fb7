"""The network as a graph of operations, with the layer behind each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim

from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel

_EXAMPLE = (2, 3, 48, 56)
"""Only traced, never baked in: sizes differ and are not 1, which would be taken as constants."""
_WEIGHTED = (
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.linear.default,
)
"""Operations whose second argument is a layer's weight."""
_PREFIX = "network."


class Trace:
    """The operations of a network in the order in which they run, as `torch.export` sees them.

    Args:
        program: the exported model.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = {**signature.inputs_to_lifted_tensor_constants}
        nodes = list(program.graph.nodes)
        self.nodes: list[fx.Node] = [node for node in nodes if node.op == "call_function"]
        self.input: fx.Node = next(node for node in nodes if node.name in signature.user_inputs)
        self.output: fx.Node = nodes[-1].args[0][0]
        self._parameters = {key: name.removeprefix(_PREFIX) for key, name in named.items()}
        self._constants = {key: program.constants[name] for key, name in constants.items()}
        self.uses: dict[str, list[fx.Node]] = {}
        """Where the weight of each layer is used, in order."""
        for node in self.nodes:
            name = self.parameter(node.args[1]) if node.target in _WEIGHTED else None
            if name and name.endswith(".weight"):
                self.uses.setdefault(name.removesuffix(".weight"), []).append(node)

    def parameter(self, value: Any) -> str | None:
        """Name of the parameter or buffer of the raw network that a value stands for."""
        return self._parameters.get(value.name) if isinstance(value, fx.Node) else None

    def state(self, model: RestorationModel) -> dict[str, Tensor]:
        """Values of parameters, buffers and constants of a model, by name of their node."""
        own = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
        return {key: own[name] for key, name in self._parameters.items()} | self._constants


def trace(model: RestorationModel) -> Trace:
    """Trace a network for pictures of any number and size.

    Raises:
        SlsError: its operations depend on the values in the pictures.
    """
    sizes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
    try:
        with torch.no_grad():
            example = (torch.zeros(_EXAMPLE),)
            program = torch.export.export(model.eval(), example, dynamic_shapes=sizes)
    except Exception as error:  # the tracer raises many kinds
        reason = str(error).strip().partition("\n")[0]
        fix = "Use --method sls, which needs no graph."
        raise SlsError(f"cannot be traced ({reason})", model.description.name, fix) from None
    return Trace(program)


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
        held = (value for name, value in self.values.items() if name not in self._held)
        return sum(value.nbytes for value in held if isinstance(value, Tensor))
