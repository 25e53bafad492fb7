"""Turns a network into an ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, LiftConstantsToInitializersPass

from sls_deploy._version import __version__
from sls_deploy.errors import SlsError
from sls_deploy.export.passes.names import LayerNames
from sls_deploy.export.passes.parameters import OwnParameters

if TYPE_CHECKING:
    from sls_deploy.models.model import RestorationModel

OPSET = 18
"""The opset that PyTorch's exporter writes by itself, with no converter after it. TensorRT's parser
documents 9 to 20 for version 10.0 and 9 to 25 for 11; TensorRT for RTX 1.7 was seen to read it."""

_EXAMPLE = (2, 3, 64, 72)
"""Only traced, never baked in: sizes differ and are not 1, which would be taken as constants."""


def to_onnx(model: RestorationModel) -> ir.Model:
    """Export a network in fp32.

    The graph maps 'input' to 'output', both NCHW float32, RGB, 0..1, with batch, height and width
    dynamic; the scaling to the network's own range is inside. Initialisers are called like the
    keys of weights.safetensors and hold the same values, pruned zeros included. The same weights
    give the same bytes on every machine: source paths and traces are removed.

    It is returned as `onnx_ir.Model`, which passes rewrite in place; `to_bytes` serialises it.

    Raises:
        SlsError: PyTorch cannot express the network in ONNX, or a size became constant.
    """
    model = model.eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (torch.zeros(_EXAMPLE),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise SlsError(f"cannot be exported to ONNX ({reason})", _name(model)) from None
    assert program is not None  # noqa: S101 - None is returned only by the old exporter
    graph = program.model
    graph = LiftConstantsToInitializersPass(lift_all_constants=True)(graph).model
    graph = LayerNames("network.")(graph).model
    parameters = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
    graph = OwnParameters(parameters)(graph).model
    graph = ClearMetadataAndDocStringPass()(graph).model
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            array = np.array(value.const_value.numpy(), order="C")
            value.const_value = ir.Tensor(array, name=value.name)
    graph.producer_name, graph.producer_version = "sls-deploy", __version__
    graph.graph.name = model.description.name
    sizes = [graph.graph.inputs[0].shape, graph.graph.outputs[0].shape]
    if any(shape is None or any(isinstance(shape[i], int) for i in (0, 2, 3)) for shape in sizes):
        what = "works for one size of picture only: batch, height or width became constant"
        raise SlsError(what, _name(model), "Compute sizes from the input's shape in its forward.")
    return graph


def to_bytes(model: ir.Model) -> bytes:
    """Serialise a graph; the same graph gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _name(model: RestorationModel) -> str:
    return model.description.name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, logs and dumps to itself: its errors come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
