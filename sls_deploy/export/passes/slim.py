"""Folds what is constant and removes what does nothing."""

from __future__ import annotations

from itertools import chain

import onnx_ir as ir

from sls_deploy.errors import SlsError, reason
from sls_deploy.export.program import quiet

_SKIPPED = ["weight_tying"]
"""Optimisations of onnxslim that are left out: this one makes layers with equal weights share one
tensor, under one layer's name."""

_SKIPPED_PATTERNS = [
    f"Fusion{layer}{operator}"
    for layer in ("Conv", "ConvTranspose", "Gemm")
    for operator in ("", "Add", "BN", "Mul")
]
"""Fusions that would change the values of weights, or turn a MatMul's and rename them."""


class Slim(ir.passes.FunctionalPass):
    """Slim a graph with onnxslim (https://github.com/inisis/OnnxSlim), weights untouched.

    Constant folding, removal of operators without effect and of repeated ones, zero padding into
    the convolution behind it. Where sizes are open little is left to fold; after `StaticShape` all
    arithmetic of shapes goes.

    onnxslim 0.1.98 renames sizes that the exporter knew ('2*height' to 'DepthToSpace_14_o0__d2')
    and writes the open sizes of the output over static ones: here a value keeps the shape that it
    had, unless the new one is all numbers.

    A half or int8 graph may be slimmed too, which is needed where a size was fixed: Casts of the
    picture and pairs of QuantizeLinear and DequantizeLinear stay, and so do int8 weights. It does
    not fold arithmetic that ends in a constant of bf16, which ONNX Runtime cannot hand over; then
    arithmetic of shapes may be left.

    Requires: types on all values and no subgraphs.
    Ensures: the same outputs; no operator more than before; initialisers that convolutions and
    matrix products use keep their names and values; the same bytes for the same graph.

    Raises:
        SlsError: onnxslim cannot read the graph.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return a slimmed copy."""
        from onnxslim import slim

        try:
            with quiet():
                proto = slim(
                    ir.to_proto(model),
                    skip_optimizations=_SKIPPED,
                    skip_fusion_patterns=_SKIPPED_PATTERNS,
                )
        except Exception as error:  # onnxslim's errors share no class of their own
            what = f"cannot be slimmed ({reason(error)})"
            raise SlsError(what, model.graph.name or "the graph", "Please report it.") from None
        slimmed = ir.from_proto(proto)
        _restore_shapes(slimmed.graph, model.graph)
        return ir.passes.PassResult(slimmed, modified=_operators(slimmed) != _operators(model))


def _restore_shapes(graph: ir.Graph, before: ir.Graph) -> None:
    known = {value.name: value for node in before for value in node.outputs}
    values = chain.from_iterable(node.outputs for node in graph)
    for value in values:
        old = known.get(value.name)
        if old is None:
            continue
        value.type = old.type
        if value.shape is None or not value.shape.is_static():
            value.shape = old.shape


def _operators(model: ir.Model) -> list[tuple[str | None, list[str | None]]]:
    """What tells whether anything changed: names of operators and of what they read."""
    return [
        (node.name, [None if value is None else value.name for value in node.inputs])
        for node in model.graph
    ]
