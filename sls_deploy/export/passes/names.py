"""Names parameters and nodes after the layers of the PyTorch network."""

from __future__ import annotations

import json
from collections import Counter

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"


class LayerNames(ir.passes.InPlacePass):
    """Make every name in the graph lead back to a layer.

    1. Initialisers lose the prefix of the wrapper: 'network.head.weight' becomes 'head.weight',
       the key of the same tensor in weights.safetensors.
    2. Nodes are called after the module that they come from and their operator: 'head.Conv', with
       '_2', '_3' for later nodes of one name, so that TensorRT's logs speak of layers.
    3. What a node computes is called like the node; input and output keep their names.

    Requires: a graph as the exporter leaves it, with its metadata.
    Ensures: names are unique and do not depend on counters of the process.

    Args:
        prefix: the wrapper's attribute that holds the network, with its dot.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        for value in list(model.graph.initializers.values()):
            assert value.name is not None  # noqa: S101 - initialisers are keyed by it
            value.name = value.name.removeprefix(self._prefix)
        seen: Counter[str] = Counter()
        for node in model.graph:
            layer = self._layer(node)
            name = f"{layer}.{node.op_type}" if layer else node.op_type
            seen[name] += 1
            node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
            for value in node.outputs:
                if not value.is_graph_output():
                    value.name = f"{node.name}.{value.index()}" if value.index() else node.name
        return ir.passes.PassResult(model, modified=True)

    def _layer(self, node: ir.Node) -> str:
        """Dotted name of the module whose forward the node comes from; '' for the outermost."""
        scopes = json.loads(node.metadata_props.get(_SCOPES, "[]").replace("'", '"'))
        # The last scope is the operator itself; '@1' marks the second call of a shared module.
        layer = scopes[-2].partition("@")[0] if len(scopes) > 1 else ""
        return layer.removeprefix(self._prefix) if layer.startswith(self._prefix) else ""
