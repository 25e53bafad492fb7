"""Turns an fp32 graph into a strongly typed fp16 or bf16 one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeGuard

import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from sls_deploy.errors import SlsError
from sls_deploy.export.passes.casts import Caster
from sls_deploy.export.passes.half_types import FLOAT_SLOTS, HalfPrecision, has_form, needed_opset
from sls_deploy.export.passes.picture_sizes import picture_sized
from sls_deploy.export.passes.statistics import root_mean_squares

_FLOAT = ir.DataType.FLOAT


class Half(ir.passes.InPlacePass):
    """Compute in fp16 or bf16 between a picture in fp32 and a picture in fp32.

    A value is picture data if it depends on the pixels of the input, not only on its shape.

    1. The scaling by a constant right after the input, and right before the output, stays fp32;
       a Cast stands on its inner side. Where there is no scaling the Cast stands at the end
       itself. A Cast to FLOAT that is there already does it.
    2. All other picture data becomes half, and so do the float initialisers that meet it, rounded
       to nearest, ties to even.
    3. Any other Cast of picture data to FLOAT becomes a Cast to the half type.
    4. Floats computed from shapes and constants stay fp32, since sizes above 2048 are not exact
       in fp16. Where one meets picture data it goes through a Cast if it holds nothing but
       constants, like a mask; if it holds sizes it is of rule 6.
    5. Integers are not touched, nor are the scales and roi of Resize.
    6. Some operators compute in fp32: those to keep; normalisations that are written out, from
       their squares to the division by a root (`root_mean_squares`); those whose numbers grow with
       the picture, and what computes the grid of a GridSample (`picture_sized`); and those without
       a form in the type (`has_form`). Casts stand around them, one for each value and direction,
       and none between two of them.
    7. A graph whose operators may be bf16 only in a later opset is raised to opset 22. Measured: at
       opset 18 ONNX's checker refuses a bf16 Conv and TensorRT for RTX 1.7 builds it; at 22 both
       take it. No other TensorRT was tried with it. What is written: the parser of TensorRT 10.6
       took over ONNX 1.17, whose opset is 22 (onnx-tensorrt, docs/Changelog.md); the lists of
       operators end at opset 20 for 10.0 and at 24 for 10.15 (docs/operators.md there); NVIDIA
       names 25 for TensorRT 11. So 10.15 is the first that bf16 files may count on, 10.6 the first
       that may read them, and fp16 files do not ask for more than opset 18.

    Requires: one float32 input 'input' and output 'output', typed values, constants as
    initialisers, no subgraphs.
    Ensures: every operator's float inputs have one type; input and output stay float32.

    Args:
        precision: the half type.
        keep: names of operators that compute in fp32.

    Raises:
        SlsError: an initialiser lies beyond the type's range or is not finite, an operator to keep
            is not there, or the graph has a subgraph.
    """

    def __init__(self, precision: HalfPrecision, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._precision, self._keep = precision, frozenset(keep)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        graph = model.graph
        _refuse_subgraphs(graph, self._precision)
        if lost := sorted(self._keep - {node.name for node in graph}):
            raise SlsError("is no operator of the graph, to keep in fp32", lost[0])
        modified = _raise_opset(model, self._precision)
        data = _picture_data(graph)
        ends = _end_nodes(graph, data)
        full = _full_nodes(graph, data, self._precision)
        full |= {node for node in graph if node.name in self._keep}
        cast = Caster(graph, self._precision)
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
                    value.type = ir.TensorType(cast.half)
                    modified = True
                    if node.op_type == "Cast":  # rule 3
                        node.attributes["to"] = ir.AttrInt64("to", int(cast.half))
        if modified:
            _restore_output(graph, ends, cast)
            cast.drop_unused_initializers()
        return ir.passes.PassResult(model, modified=modified)


def stays_fp32(model: ir.Model, precision: HalfPrecision = "fp16") -> set[str]:
    """Names of the operators that `Half` leaves in fp32 without being told to.

    Args:
        model: the fp32 graph.
        precision: the half type that it is to become.
    """
    graph = model.graph
    data = _picture_data(graph)
    full = _end_nodes(graph, data) | _full_nodes(graph, data, precision)
    full |= {node for node in graph if not any(value in data for value in node.outputs)}
    return {node.name for node in full if node.name}


def _refuse_subgraphs(graph: ir.Graph, precision: HalfPrecision) -> None:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in graph:
        if any(attribute.type in kinds for attribute in node.attributes.values()):
            what = f"is a {node.op_type} with a graph of its own, which {precision} cannot take"
            fix = "Export it in fp32 only: --precision fp32."
            raise SlsError(what, node.name or node.op_type, fix)


def _picture_data(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the pixels of the input, the input among them."""
    data: set[ir.Value] = set(graph.inputs)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(value in data for value in node.inputs):
            data.update(node.outputs)
    return data


def _computing(graph: ir.Graph, data: set[ir.Value]) -> list[ir.Node]:
    return [node for node in graph if any(value in data for value in node.outputs)]


def _raise_opset(model: ir.Model, precision: HalfPrecision) -> bool:
    """Rule 7; whether the opset changed."""
    now = model.graph.opset_imports[""]
    needed = needed_opset(_computing(model.graph, _picture_data(model.graph)), precision, now)
    if needed != now:
        ConvertVersionPass(needed)(model)
    return needed != now


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


def _full_nodes(graph: ir.Graph, data: set[ir.Value], precision: HalfPrecision) -> set[ir.Node]:
    """Operators of rule 6 that need not be asked for."""
    computing = _computing(graph, data)
    opset = needed_opset(computing, precision, graph.opset_imports[""])
    formless = {node for node in computing if not has_form(node, precision, opset)}
    return root_mean_squares(graph, data) | picture_sized(graph, data) | formless


def _halve_inputs(node: ir.Node, cast: Caster) -> bool:
    """Rules 2, 4 and 5: what is still fp32 here is a constant, a shape, an end, or of rule 6."""
    modified = False
    for index, value in enumerate(node.inputs):
        kept = index in FLOAT_SLOTS.get(node.op_type, ())
        if value is not None and value.dtype == _FLOAT and not kept:
            node.replace_input_with(index, cast.to_half(value))
            modified = True
    return modified


def _leads_to(node: ir.Node, nodes: set[ir.Node]) -> bool:
    users = [use.node for value in node.outputs for use in value.uses()]
    return bool(users) and all(user in nodes for user in users)


def _restore_inputs(node: ir.Node, cast: Caster) -> None:
    """Bring what is half already at an fp32 operator back through a Cast."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype == cast.half:
            node.replace_input_with(index, cast.to_float(value, before=node))


def _restore_output(graph: ir.Graph, ends: set[ir.Node], cast: Caster) -> None:
    """Bring the picture back to fp32: before the last scaling, or as the last thing of all."""
    output = graph.outputs[0]
    last = output.producer()
    if last is not None and last in ends:
        _restore_inputs(last, cast)
    elif output.dtype == cast.half:
        name, output.name = output.name, f"{output.name}.{cast.half.name.lower()}"
        graph.outputs[0] = cast.to_float(output, before=None)
        graph.outputs[0].name = name
