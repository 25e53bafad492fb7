"""What the modules of a PyTorch network give, under the names of the graph exported of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures

Values = Mapping[str, NDArray[Any]]
"""Values of a graph by name, as float32."""


def module_outputs(
    model: RestorationModel, graph: onnx.GraphProto, computed: Values, pictures: Pictures
) -> dict[str, NDArray[Any]]:
    """Run a network, and give each module's output the name of the value that is to equal it.

    Nodes are called after modules (`passes.names.LayerNames`), the k-th of one name with k at its
    end. A module's output is what leaves the module's nodes for others. Where several things do,
    or one of another shape, the module is left out.

    Args:
        model: the network that was exported, with folded normalisations.
        graph: the exported graph.
        computed: what the graph computed of the same pictures.
        pictures: NCHW float32, RGB, 0..1.

    Returns:
        Expected values by name in the graph, the picture's among them.

    Raises:
        SlsError: the network failed on the pictures.
    """
    calls: dict[str, list[NDArray[Any]]] = {}

    def record(name: str) -> Any:
        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):  # a copy, since what follows may work in place
                calls.setdefault(name, []).append(output.detach().float().cpu().numpy().copy())

        return hook

    modules = [(name, module) for name, module in model.network.named_modules() if name]
    hooks = [module.register_forward_hook(record(name)) for name, module in modules]
    try:
        picture = TorchRunner(model).run(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    expected = {graph.output[0].name: picture}
    # The innermost module first: the last layer of a block gives what the block gives.
    for name in sorted(calls, key=lambda name: -name.count(".")):
        outputs = calls[name]
        values = _given(graph, name, len(outputs))
        shapes = [computed[value].shape for value in values if value in computed]
        if shapes == [output.shape for output in outputs]:
            for value, output in zip(values, outputs, strict=True):
                expected.setdefault(value, output)
    return expected


def _given(graph: onnx.GraphProto, module: str, calls: int) -> list[str]:
    """The value that each call of a module gives; none where that is not clear.

    What a module gives is read by nodes that are not its own; of a module that reads what it gave
    itself, only the last call's is.
    """
    prefix = f"{module}."
    outside = {value.name for value in graph.output}
    for node in graph.node:
        if not node.name.startswith(prefix):
            outside.update(node.input)
    own = [node for node in graph.node if node.name.startswith(prefix)]
    leaving = [node for node in own if outside.intersection(node.output)]
    stems = {_numbered(node.name)[0] for node in leaving}
    if len(stems) != 1:
        return []
    same = [node for node in own if _numbered(node.name)[0] in stems]
    same.sort(key=lambda node: _numbered(node.name)[1])
    each, rest = divmod(len(same), calls)
    last = same[each - 1 :: each] if each and not rest else []
    names = [node.name for node in last]
    return [node.output[0] for node in last] if all(n.name in names for n in leaving) else []


def _numbered(node: str) -> tuple[str, int]:
    """'body.0.Conv' and 3 for 'body.0.Conv_3'; 1 for the first, which has no number."""
    match = re.fullmatch(r"(.*)_(\d+)", node)
    return (match[1], int(match[2])) if match else (node, 1)
