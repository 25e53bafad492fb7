"""Gives layers back the parameters that the exporter merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.export.passes.values import add_constant

_SLOTS = ((1, "weight"), (2, "bias"))


class OwnParameters(ir.passes.InPlacePass):
    """Let every layer read an initialiser of its own name.

    The exporter keeps one of several equal tensors, such as the weights of two mean shifts, so
    that a layer may read another's; here it gets an equal one under its own name.

    Requires: node names as `LayerNames` writes them.
    Ensures: no value changes.

    Args:
        parameters: the network's parameters by name.
    """

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self._parameters = parameters

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace inputs in place."""
        modified = False
        initializers = model.graph.initializers
        for node in model.graph:
            layer = (node.name or "").rpartition(".")[0]
            for index, suffix in _SLOTS:
                value = node.inputs[index] if index < len(node.inputs) else None
                name = f"{layer}.{suffix}"
                own = self._parameters.get(name)
                if value is None or value.const_value is None or own is None or value.name == name:
                    continue
                if np.array_equal(value.const_value.numpy(), own):
                    if name not in initializers:
                        add_constant(model.graph, name, own.copy())
                    node.replace_input_with(index, initializers[name])
                    modified = True
        return ir.passes.PassResult(model, modified=modified)
