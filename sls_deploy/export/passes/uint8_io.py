"""Puts the conversion from and to bytes into the graph."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sls_deploy.export.passes.values import add_constant, typed_node

_FLOAT, _UINT8 = ir.DataType.FLOAT, ir.DataType.UINT8
_WHITE = 255.0
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


class Uint8Pictures(ir.passes.InPlacePass):
    """Take and give pictures as bytes: uint8, NHWC, RGB, 0..255, several frames along C.

    1. Behind the input stand a Cast to fp32, a Transpose to NCHW and a division by 255; in front of
       the output a multiplication by 255, a Clip to 0..255, a Round (ties to even, as
       `validate.metrics.to_uint8`), a Transpose to NHWC and a Cast.
    2. Where the network itself multiplies its input by 255, or divides its output by that, both
       go: u / 255 * 255 is u again in fp32 for every u of 0..255.

    The arithmetic at the ends is fp32 whatever the graph computes in. The bytes equal `to_uint8` of
    the float graph's output but where 255 times it lies within float rounding of a half: that
    product is rounded to fp32 here, and under rule 2 not formed at all. NaN has no byte.
    TensorRT takes uint8 at a graph's ends only, next to a Cast.

    Requires: one float32 input and output, NCHW.
    Ensures: both are uint8 NHWC and keep their names; nothing between the scalings changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        graph = model.graph
        if graph.inputs[0].dtype == _UINT8:
            return ir.passes.PassResult(model, modified=False)
        white = add_constant(graph, "uint8.white", np.array(_WHITE, np.float32))
        black = add_constant(graph, "uint8.black", np.array(0, np.float32))
        _rewrite_input(graph, white)
        _rewrite_output(graph, white, black)
        for value in list(graph.initializers.values()):
            if not value.uses() and value.name is not None:
                del graph.initializers[value.name]
        return ir.passes.PassResult(model, modified=True)


def _rewrite_input(graph: ir.Graph, white: ir.Value) -> None:
    old = graph.inputs[0]
    name = old.name
    old.name = f"{name}.nchw"
    new = ir.Value(name=name, shape=_permuted(old.shape, _TO_NHWC), type=ir.TensorType(_UINT8))
    cast = _node("Cast", [new], f"uint8.{name}.Cast", new.shape, _FLOAT, to=int(_FLOAT))
    moved = _node("Transpose", [_result(cast)], f"uint8.{name}.Transpose", old.shape, perm=_TO_NCHW)
    scaled = _node("Div", [_result(moved), white], f"uint8.{name}.Div", old.shape)
    graph.inputs[0] = new
    graph.insert_before(graph[0], [cast, moved, scaled])
    for use in old.uses():
        if use.node.op_type == "Shape":
            use.node.replace_input_with(use.idx, _result(moved))
        elif math.isclose(_factor(use.node), _WHITE, rel_tol=1e-6):  # rule 2
            _result(use.node).replace_all_uses_with(_result(moved), replace_graph_outputs=True)
            graph.remove(use.node, safe=True)
    if old.uses():
        old.replace_all_uses_with(_result(scaled))
    else:
        graph.remove(scaled, safe=True)


def _rewrite_output(graph: ir.Graph, white: ir.Value, black: ir.Value) -> None:
    old = graph.outputs[0]
    name, shape, last = old.name, old.shape, old.producer()
    old.name = f"{name}.nchw"
    merged = last is not None and math.isclose(_factor(last) * _WHITE, 1, rel_tol=1e-6)
    if last is not None and merged and not old.uses():  # rule 2
        picture = next(value for value in last.inputs if value and value.const_value is None)
    else:
        scaled = _node("Mul", [old, white], f"uint8.{name}.Mul", shape)
        graph.append(scaled)
        picture = _result(scaled)
    clipped = _node("Clip", [picture, black, white], f"uint8.{name}.Clip", shape)
    rounded = _node("Round", [_result(clipped)], f"uint8.{name}.Round", shape)
    last_shape = _permuted(shape, _TO_NHWC)
    moved = _node(
        "Transpose", [_result(rounded)], f"uint8.{name}.Transpose", last_shape, perm=_TO_NHWC
    )
    cast = _node("Cast", [_result(moved)], f"uint8.{name}.Cast", last_shape, _UINT8, to=int(_UINT8))
    graph.extend([clipped, rounded, moved, cast])
    graph.outputs[0] = _result(cast)
    graph.outputs[0].name = name
    if last is not None and not old.uses():
        graph.remove(last, safe=True)


def _factor(node: ir.Node) -> float:
    """What an operator multiplies the picture by; NaN if it does anything else."""
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return math.nan
    for index, value in enumerate(node.inputs):
        constant = None if value is None else value.const_value
        if constant is not None and constant.size == 1 and (index == 1 or node.op_type == "Mul"):
            number = float(constant.numpy().item())
            return number if node.op_type == "Mul" else 1 / number
    return math.nan


def _permuted(shape: ir.Shape | None, order: tuple[int, ...]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in order])


def _result(node: ir.Node) -> ir.Value:
    return node.outputs[0]


def _node(
    operator: str,
    inputs: list[ir.Value],
    name: str,
    shape: ir.Shape | None,
    dtype: ir.DataType = _FLOAT,
    **attributes: int | tuple[int, ...],
) -> ir.Node:
    return typed_node(operator, inputs, name, dtype, shape, attributes)
