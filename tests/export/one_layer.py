"""Files of one layer, and what is proved of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.export.proof import LayerProof, prove

LEGAL = np.tile(np.array([1.5, 0, 0, -2.5], np.float32), 4).reshape(2, 8, 1, 1)
DENSE = np.ones((2, 8, 1, 1), np.float32)
PRUNED = {"name": "layer", "kept": 2, "of": 4}
SCALE = np.array([2.5 / 127, 0.03], np.float32)
INTEGERS = np.rint(LEGAL / SCALE.reshape(2, 1, 1, 1)).astype(np.int8)
NAME = "layer.weight"


def write(
    path: Path,
    tensors: dict[str, np.ndarray],
    operator: str = "Conv",
    before: Sequence[onnx.NodeProto] = (),
    inputs: Sequence[str] = (NAME,),
    **options: Any,
) -> Path:
    """One layer; nodes may stand between its weight and the initialiser."""
    node = helper.make_node(operator, ["input", *inputs], ["output"], "layer.node", **options)
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("input", "output")
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph([*before, node], "net", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def write_int8(path: Path, integers: np.ndarray = INTEGERS, **more: np.ndarray) -> Path:
    """The layer with its weight behind a DequantizeLinear, then a Cast."""
    names = [NAME, "scale", *(["zero"] if "zero" in more else [])]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["floats"], "dq", axis=0),
        helper.make_node("Cast", ["floats"], ["halves"], "cast", to=TensorProto.FLOAT16),
    ]
    tensors = {NAME: integers, "scale": SCALE, **more}
    bias = [name for name in more if name.endswith(".bias")]
    return write(path, tensors, before=nodes, inputs=["halves", *bias])


def prove_one(
    path: Path, source: np.ndarray, ratios: list[dict[str, Any]] | None = None
) -> LayerProof:
    (proof,) = prove(path, {NAME: source}, ratios or [])
    return proof
