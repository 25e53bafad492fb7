"""Puts the other float type of a value into a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sls_deploy.errors import SlsError
from sls_deploy.export.passes.half_types import LARGEST, TYPES, HalfPrecision
from sls_deploy.export.passes.values import add_constant


class Caster:
    """Makes the other type of a value once, and remembers it.

    Args:
        graph: where Casts and converted initialisers go.
        precision: the half type.
    """

    def __init__(self, graph: ir.Graph, precision: HalfPrecision) -> None:
        self.half = TYPES[precision]
        self._graph, self._precision = graph, precision
        self._halves: dict[ir.Value, ir.Value] = {}
        self._floats: dict[ir.Value, ir.Value] = {}

    def to_half(self, value: ir.Value) -> ir.Value:
        """The half form of an fp32 value: a converted initialiser, or a Cast of anything else.

        Raises:
            SlsError: an initialiser lies beyond the type's range or is not finite.
        """
        if value not in self._halves:
            constant = value.is_initializer()
            self._halves[value] = self._convert(value) if constant else self._cast(value)
        return self._halves[value]

    def to_float(self, value: ir.Value, before: ir.Node | None) -> ir.Value:
        """A Cast to fp32, before a node or at the end; nodes must be asked for in order."""
        if value in self._floats and before is not None:
            return self._floats[value]
        node = self._node(value, ir.DataType.FLOAT)
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
            self._floats[value] = node.outputs[0]
        return node.outputs[0]

    def drop_unused_initializers(self) -> None:
        """Remove fp32 initialisers that nothing reads now; their half form takes the name."""
        for value, half in self._halves.items():
            if value.is_initializer() and not value.uses() and value.name is not None:
                del self._graph.initializers[value.name]
                half.name = value.name

    def _convert(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None  # noqa: S101 - an initialiser has a tensor
        array = value.const_value.numpy()
        largest, limit = float(np.abs(array).max(initial=0.0)), LARGEST[self._precision]
        if not largest <= limit:  # also NaN
            what = f"holds {largest:g}, beyond the {limit:g} of {self._precision}"
            raise SlsError(what, value.name or "", "Export it in fp32 only: --precision fp32.")
        name = f"{value.name}.{self.half.name.lower()}"
        return add_constant(self._graph, name, array.astype(self.half.numpy()))

    def _cast(self, value: ir.Value) -> ir.Value:
        node = self._node(value, self.half)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]

    @staticmethod
    def _node(value: ir.Value, to: ir.DataType) -> ir.Node:
        name = f"{value.name}.Cast"
        node = ir.node("Cast", [value], {"to": int(to)}, name=name)
        node.outputs[0].name = f"{value.name}.{to.name.lower()}"
        node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(to)
        return node
