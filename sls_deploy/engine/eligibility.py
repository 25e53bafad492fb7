"""Why sparse tensor cores cannot compute a layer: its form, its weights, its precision."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from sls_deploy.onnx_layers import WeightUse
from sls_deploy.sparsity.legality import why_not_eligible

SELDOM_BELOW = 256
"""Channels below which TensorRT's developers found sparse kernels seldom faster than dense ones
(NVIDIA/TensorRT 3849, 4065). It is no limit: TensorRT times both."""
_COMPUTED = ("fp16", "bf16", "int8")
"""Precisions of sparse tensor cores since Ampere that engines here are built for. TF32 is another,
but it is switched off, so that fp32 stays fp32; fp8 came with Ada.

Source: NVIDIA, PTX ISA, `mma.sp`."""
_WITHIN = frozenset(
    {"Add", "Clip", "Concat", "LeakyRelu", "MaxPool", "PRelu", "Relu", "Reshape", "Transpose"}
)
"""What TensorRT computes in the kernel in front of it, or may move behind a quantiser."""
_UNCHANGED = frozenset({"Identity", "Reshape", "Transpose"})


class Quantisers:
    """Which nodes of a graph read and give int8, by its pairs of quantisers.

    Args:
        graph: its nodes in an order in which they can run.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._producers = {name: node for node in graph.node for name in node.output}
        self._nodes = {
            node.name or f"{node.op_type} {number}": node for number, node in enumerate(graph.node)
        }
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._given = _given_in_int8(graph, self._readers, self._outputs)

    def reads_int8(self, node: str) -> bool:
        """Whether both the picture and the weight of a layer come from int8."""
        return all(map(self._is_from_int8, self._nodes[node].input[:2]))

    def gives_int8(self, node: str) -> bool:
        """Whether all that is computed from a layer's output by its own kernel becomes int8."""
        return all(self._given[name] for name in self._nodes[node].output if name)

    def _is_from_int8(self, value: str) -> bool:
        while (node := self._producers.get(value)) and node.op_type in _UNCHANGED:
            value = node.input[0]
        return node is not None and node.op_type == "DequantizeLinear"


def _given_in_int8(
    graph: onnx.GraphProto, readers: Mapping[str, list[onnx.NodeProto]], outputs: set[str]
) -> dict[str, bool]:
    """For every value, whether it becomes int8 wherever it goes."""
    given: dict[str, bool] = {}
    for node in reversed(graph.node):
        for name in node.output:
            given[name] = name not in outputs and all(
                reader.op_type == "QuantizeLinear"
                or (reader.op_type in _WITHIN and given.get(reader.output[0], False))
                for reader in readers.get(name, [])
            )
    return given


def why_not_sparse(use: WeightUse, quantisers: Quantisers, *, legal: bool) -> str:
    """Why sparse tensor cores cannot take a layer; empty if they can.

    To be eligible never says that a sparse kernel will run: TensorRT times both and chooses.

    Args:
        use: a layer whose weight could be followed.
        quantisers: those of its graph.
        legal: whether its weight satisfies 2:4.

    Source: of int8, NVIDIA's example "Sparse + INT8 -> ONNX -> TensorRT" of Model Optimizer (a
    sparse kernel is chosen only where the result stays int8) and NVIDIA/TensorRT 4694.
    """
    transposed = use.operator == "ConvTranspose"
    reasons = (
        why_not_eligible(use.filters.shape[1], use.groups, legal=legal, transposed=transposed),
        _why_not_by_precision(use, quantisers),
    )
    return ", ".join(filter(None, reasons))


def _why_not_by_precision(use: WeightUse, quantisers: Quantisers) -> str:
    precision = use.weight.precision if use.weight else ""
    if precision == "fp32":
        return "it computes in fp32 (TF32 is off), for which there are no sparse tensor cores"
    if precision not in _COMPUTED:
        return f"it computes in {precision}, for which Ampere has no sparse tensor cores"
    if precision == "int8" and not quantisers.reads_int8(use.node):
        return "its input is not int8, as sparse int8 kernels want"
    if precision == "int8" and not quantisers.gives_int8(use.node):
        return "its output is not int8, as sparse int8 kernels want"
    return ""
