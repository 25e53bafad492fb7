"""Turns a network into an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, LiftConstantsToInitializersPass

from sls_deploy._version import __version__
from sls_deploy.errors import SlsError
from sls_deploy.export.passes.names import LayerNames
from sls_deploy.export.passes.parameters import OwnParameters
from sls_deploy.export.program import SIZES, export_program, one_size, quiet

if TYPE_CHECKING:
    from sls_deploy.models.model import RestorationModel

OPSET = 18
"""The opset that PyTorch's exporter writes by itself, with no converter after it. TensorRT's parser
documents 9 to 20 for version 10.0 and 9 to 25 for 11; TensorRT for RTX 1.7 was seen to read it."""


def to_onnx(model: RestorationModel) -> ir.Model:
    """Export a network in fp32.

    The graph maps 'input' to 'output', both NCHW float32, RGB, 0..1, with batch, height and width
    dynamic; several frames lie along the channels of the input. Of several outputs it has the
    picture alone. A network that computes with the number of pictures as a constant takes one at a
    time. Scaling to the network's own range is inside. Where the description says that
    sides must be multiples, it takes only those. Initialisers are called like the keys of
    weights.safetensors and hold the same values, pruned zeros included; fold batch normalisations
    before (`fold_norms`), or the exporter does, and changes the weights in front of them. The same
    weights give the same bytes on every machine: source paths and traces are removed.

    It is returned as `onnx_ir.Model`, which passes rewrite in place; `to_bytes` serialises it.

    Raises:
        SlsError: PyTorch cannot express the network in ONNX, or a size became constant.
    """
    model = model.eval()
    exported = export_program(model)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=(SIZES,),  # only names them: the program is open there already
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
    if not all(map(_is_open, (graph.graph.inputs[0], graph.graph.outputs[0]))):
        raise one_size(_name(model))
    return graph


def to_bytes(model: ir.Model) -> bytes:
    """Serialise a graph; the same graph gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def _is_open(value: ir.Value) -> bool:
    """Whether pictures may have any height and width, and there may be any number or just one."""
    if value.shape is None:
        return False
    open_axes = [axis for axis in SIZES if not isinstance(value.shape[axis], int)]
    return open_axes == list(SIZES) or (open_axes == [2, 3] and value.shape[0] == 1)


def _name(model: RestorationModel) -> str:
    return model.description.name
