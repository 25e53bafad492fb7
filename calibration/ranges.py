"""How large the activations of a graph get on real pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.runner import Pictures


@dataclass(frozen=True)
class Peak:
    """The largest absolute value that a tensor reached."""

    tensor: str
    """Name of the value in the graph."""
    node: str
    """Name of the node that computes it, which begins with the layer's name."""
    largest: float
    """Largest absolute value; NaN if any was NaN."""


def measure_peaks(model: bytes, pictures: Iterable[Pictures]) -> list[Peak]:
    """Find the largest absolute activation of every float32 tensor of a graph.

    Every tensor is made an output, so memory is that of all activations of one batch.

    Args:
        model: an fp32 ONNX file whose values carry their types, as the exporter writes them.
        pictures: batches, each NCHW float32, RGB, 0..1.

    Returns:
        One peak for each tensor that a node computes, in the order of the graph.

    Raises:
        SlsError: ONNX Runtime is not installed or cannot run the graph.
    """
    proto = onnx.load_from_string(model)
    typed = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    producers = {
        name: node.name
        for node in proto.graph.node
        for name in node.output
        if name in typed and typed[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    outputs = {value.name for value in proto.graph.output}
    proto.graph.output.extend(typed[name] for name in producers if name not in outputs)
    session = open_session(proto.SerializeToString())
    names = list(producers)
    largest = np.zeros(len(names))
    for batch in pictures:
        values = run_session(session, names, {"input": batch}, "activation ranges")
        now = [np.abs(value).max(initial=0.0) for value in values]
        largest = np.maximum(largest, now)  # keeps a NaN
    return [
        Peak(name, producers[name], float(value))
        for name, value in zip(names, largest, strict=True)
    ]
