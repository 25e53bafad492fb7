"""Turns an fp32 graph into a strongly typed fp16 one."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from sls_deploy.errors import SlsError
from sls_deploy.export.passes.statistics import root_mean_squares

FLOAT16_MAX = 65504.0
"""Largest finite half-precision number."""

_FIX = "Export it in fp32 only: --precision fp32."
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_FLOAT_SLOTS = {"Resize": (1, 2)}
"""Inputs that stay float32 whatever the picture is: the roi (never read outside of
tf_crop_and_resize) and the scales of Resize."""


class Float16(ir.passes.InPlacePass):
    """Compute in fp16 between a picture in fp32 and a picture in fp32.

    A value is picture data if it depends on the pixels of the input, not only on its shape.

    1. The scaling by a constant right after the input, and right before the output, stays fp32;
       a Cast stands on its inner side. Where there is no scaling the Cast stands at the end
       itself. A Cast to FLOAT that is there already does it.
    2. All other picture data becomes fp16, and so do the float initialisers that meet it.
    3. Any other Cast of picture data to FLOAT becomes a Cast to FLOAT16.
    4. Floats computed from shapes and constants stay fp32, since sizes above 2048 are not exact
       in fp16; where one meets picture data it goes through a Cast.
    5. Integers are not touched, nor are the scales and roi of Resize.
    6. Normalisations that are written out stay fp32 from their squares to the division by a root,
       see `root_mean_squares`; Casts stand around them.

    Requires: one float32 input 'input' and output 'output', typed values, constants as
    initialisers, no subgraphs.
    Ensures: every operator's float inputs have one type; input and output stay float32.

    Raises:
        SlsError: an initialiser lies beyond 65504 or is not finite, or the graph has a subgraph.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        graph = model.graph
        _refuse_subgraphs(graph)
        data = _picture_data(graph)
        ends = _end_nodes(graph, data)
        full = root_mean_squares(graph, data)
        cast = _Caster(graph)
        modified = False
        for node in list(graph):
            if node in ends or not any(value in data for value in node.outputs):
                continue
            if node in full:
                _restore_inputs(node, cast)
                continue
            if node.op_type == "Cast" and _leads_to(node, full):
                continue
            if node.op_type != "Cast":
                modified |= _halve_inputs(node, cast)
            for value in node.outputs:
                if value.dtype == _FLOAT:
                    value.type = ir.TensorType(_HALF)
                    modified = True
                    if node.op_type == "Cast":  # rule 3
                        node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
        if modified:
            _restore_output(graph, ends, cast)
            cast.drop_unused_initializers()
        return ir.passes.PassResult(model, modified=modified)


def _refuse_subgraphs(graph: ir.Graph) -> None:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in graph:
        if any(attribute.type in kinds for attribute in node.attributes.values()):
            what = f"is a {node.op_type} with a graph of its own, which the fp16 pass cannot take"
            raise SlsError(what, node.name or node.op_type, _FIX)


def _picture_data(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the pixels of the input, the input among them."""
    data: set[ir.Value] = set(graph.inputs)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(value in data for value in node.inputs):
            data.update(node.outputs)
    return data


def _end_nodes(graph: ir.Graph, data: set[ir.Value]) -> set[ir.Node]:
    """Operators that stay fp32: the scaling of input and output, and a Cast that ends in it."""
    output = graph.outputs[0].producer()
    ends = {node for node in (*graph.inputs[0].consumers(), output) if _is_scaling(node, data)}
    inner = output.inputs if output is not None and output in ends else graph.outputs
    casts = {value.producer() for value in inner if value is not None}
    return ends | {node for node in casts if node is not None and node.op_type == "Cast"}


def _is_scaling(node: ir.Node | None, data: set[ir.Value]) -> TypeGuard[ir.Node]:
    """Is it a multiplication or division of picture data by one constant?"""
    return (
        node is not None
        and node.op_type in ("Mul", "Div")
        and any(value in data for value in node.inputs)
        and any(
            value is not None and value.const_value is not None and value.const_value.size == 1
            for value in node.inputs
        )
    )


def _halve_inputs(node: ir.Node, cast: _Caster) -> bool:
    """Rules 2, 4 and 5: what is still fp32 at this operator is a constant, a shape or an end."""
    modified = False
    for index, value in enumerate(node.inputs):
        kept = index in _FLOAT_SLOTS.get(node.op_type, ())
        if value is not None and value.dtype == _FLOAT and not kept:
            node.replace_input_with(index, cast.to_half(value))
            modified = True
    return modified


def stays_fp32(model: ir.Model) -> set[str]:
    """Names of the operators whose results stay fp32 under rule 6."""
    graph = model.graph
    full = root_mean_squares(graph, _picture_data(graph))
    # The division comes last, and what it gives is cast.
    inner = (node for node in full if _leads_to(node, full))
    return {node.name for node in inner if node.name}


def _leads_to(node: ir.Node, nodes: set[ir.Node]) -> bool:
    users = [use.node for value in node.outputs for use in value.uses()]
    return bool(users) and all(user in nodes for user in users)


def _restore_inputs(node: ir.Node, cast: _Caster) -> None:
    """Rule 6: what is fp16 already at this operator goes through a Cast."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == _HALF:
            node.replace_input_with(index, cast.to_float(value, before=node))


def _restore_output(graph: ir.Graph, ends: set[ir.Node], cast: _Caster) -> None:
    """Bring the picture back to fp32: before the last scaling, or as the last thing of all."""
    output = graph.outputs[0]
    last = output.producer()
    if last in ends:
        for index, value in enumerate(last.inputs):
            if value is not None and value.dtype == _HALF:
                last.replace_input_with(index, cast.to_float(value, before=last))
    elif output.dtype == _HALF:
        name, output.name = output.name, f"{output.name}.float16"
        graph.outputs[0] = cast.to_float(output, before=None)
        graph.outputs[0].name = name


class _Caster:
    """Makes the other type of a value once, and remembers it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._halves: dict[ir.Value, ir.Value] = {}
        self._floats: dict[ir.Value, ir.Value] = {}

    def to_half(self, value: ir.Value) -> ir.Value:
        """The fp16 form of an fp32 value: a converted initialiser, or a Cast of anything else."""
        if value not in self._halves:
            constant = value.is_initializer()
            self._halves[value] = self._convert(value) if constant else self._cast(value)
        return self._halves[value]

    def to_float(self, value: ir.Value, before: ir.Node | None) -> ir.Value:
        """A Cast to fp32, before a node or at the end; nodes must be asked for in order."""
        if value in self._floats and before is not None:
            return self._floats[value]
        node = self._node(value, _FLOAT)
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
            self._floats[value] = node.outputs[0]
        return node.outputs[0]

    def drop_unused_initializers(self) -> None:
        """Remove fp32 initialisers that nothing reads now; their fp16 form takes the name."""
        for value, half in self._halves.items():
            if value.is_initializer() and not value.uses() and value.name is not None:
                del self._graph.initializers[value.name]
                half.name = value.name

    def _convert(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None  # noqa: S101 - an initialiser has a tensor
        array = value.const_value.numpy()
        largest = float(np.abs(array).max(initial=0.0))
        if not largest <= FLOAT16_MAX:  # also NaN
            what = f"holds {largest:g}, beyond the {FLOAT16_MAX:g} of fp16"
            raise SlsError(what, value.name or "", _FIX)
        name = f"{value.name}.float16"
        tensor = ir.Tensor(array.astype(np.float16), name=name)
        half = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(_HALF), const_value=tensor
        )
        self._graph.register_initializer(half)
        return half

    def _cast(self, value: ir.Value) -> ir.Value:
        node = self._node(value, _HALF)
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
