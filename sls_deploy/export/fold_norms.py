"""Batch normalisations put into the layers in front of them, as TensorRT would.

PyTorch's exporter does the same in the graph, where the changed weights keep the names of the
search's. Here it is done before, in double precision, so that it can be proved.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm

from sls_deploy.export.program import export_program
from sls_deploy.models.model import RestorationModel

_aten = torch.ops.aten
_LINEAR = _aten.linear.default
_TRANSPOSED = (
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
)
_LAYERS = (
    _aten.conv1d.default,
    _aten.conv1d.padding,
    _aten.conv2d.default,
    _aten.conv2d.padding,
    _aten.conv3d.default,
    _aten.conv3d.padding,
    *_TRANSPOSED,
    _LINEAR,
)
_NORM = _aten.batch_norm.default
_PREFIX = "network."


class Folded(NamedTuple):
    """A network without the normalisations that could be folded."""

    model: RestorationModel
    """The network; the one given, where nothing was folded."""
    layers: dict[str, str]
    """Which normalisation went into which layer: layer to normalisation."""


def fold_norms(model: RestorationModel) -> Folded:
    """Fold every batch normalisation that follows a layer and nothing but it.

    A layer may be used several times if the same normalisation follows each time. All others stay
    as they are: in front of a layer, or behind one whose output is also used without them.

    Args:
        model: the network, in evaluation mode; it is not changed.

    Raises:
        SlsError: the network cannot be traced.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.network.modules()):
        return Folded(model, {})
    pairs = _pairs(export_program(model.eval()))
    folded = copy.deepcopy(model)
    network = folded.network
    layers = {}
    for name, (norm_name, transposed) in pairs.items():
        norm, layer = network.get_submodule(norm_name), network.get_submodule(name)
        if isinstance(norm, _BatchNorm) and _is_plain(norm):
            _fold(layer, norm, transposed=transposed)
            layers[name] = norm_name
    for norm_name in set(layers.values()):
        parent, _, child = norm_name.rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
    return Folded(folded, layers) if layers else Folded(model, {})


def _is_plain(norm: _BatchNorm) -> bool:
    """Whether a normalisation does nothing else, and by statistics of its own."""
    return type(norm).forward is _BatchNorm.forward and norm.running_var is not None


def _pairs(program: ExportedProgram) -> dict[str, tuple[str, bool]]:
    """Layers, each with the normalisation to fold and whether its filters come second."""
    signature = program.graph_signature
    parameters = {
        key: name.removeprefix(_PREFIX)
        for names in (signature.inputs_to_parameters, signature.inputs_to_buffers)
        for key, name in names.items()
    }
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    found: dict[str, tuple[str, bool]] = {}
    spoilt: set[str] = set()
    for node in nodes:
        if node.target in _LAYERS:
            name, norm = _layer(node.args[1], parameters, ".weight"), _norm_after(node, parameters)
            bias = node.args[2] if len(node.args) > 2 else None
            if bias is not None and _layer(bias, parameters, ".bias") != name:
                name = ""  # its bias comes from elsewhere
            pair = (norm, node.target in _TRANSPOSED)
            if name and norm and found.setdefault(name, pair) == pair:
                continue
            spoilt.update(filter(None, (norm, name and found.get(name, ("",))[0])))
            spoilt.add(name)  # it has a use that is not normalised in the same way
        elif node.target is _NORM and not _follows_layer(node):
            spoilt.add(_layer(node.args[3], parameters, ".running_mean"))
    # A norm behind several layers goes into all of them, or into none.
    for _ in found:
        spoilt |= {norm for name, (norm, _) in found.items() if name in spoilt}
        spoilt |= {name for name, (norm, _) in found.items() if norm in spoilt}
    return {name: pair for name, pair in found.items() if name not in spoilt}


def _layer(value: Any, parameters: Mapping[str, str], suffix: str) -> str:
    """The module that a parameter belongs to; '' if it is none of that kind."""
    name = parameters.get(value.name, "") if isinstance(value, fx.Node) else ""
    return name.removesuffix(suffix) if name.endswith(suffix) else ""


def _norm_after(node: fx.Node, parameters: Mapping[str, str]) -> str:
    """The normalisation that alone uses what a layer computes; '' if there is none."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not _NORM or not _follows_layer(users[0]):
        return ""
    return _layer(users[0].args[3], parameters, ".running_mean")


def _follows_layer(norm: fx.Node) -> bool:
    """Whether a normalisation's input is a layer's output and nothing else needs that."""
    source = norm.args[0]
    if not isinstance(source, fx.Node) or source.target not in _LAYERS or len(source.users) != 1:
        return False
    # Behind a linear layer the second axis, which is normalised, is its features only in 2-D.
    return source.target is not _LINEAR or source.meta["val"].dim() == 2


def _fold(layer: nn.Module, norm: _BatchNorm, *, transposed: bool) -> None:
    """Scale the filters of a layer and move its bias, in double precision."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018
    weight = layer.get_parameter("weight").detach()
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = (variance + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.detach().double()
    bias = getattr(layer, "bias", None)
    shift = (torch.zeros_like(mean) if bias is None else bias.detach().double()) - mean
    shift = shift * factor
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    scaled = _scale_filters(weight.double(), factor, layer, transposed=transposed)
    layer.weight = nn.Parameter(scaled.to(weight.dtype))
    layer.bias = nn.Parameter(shift.to(weight.dtype))


def _scale_filters(weight: Tensor, factor: Tensor, layer: nn.Module, *, transposed: bool) -> Tensor:
    if not transposed:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    groups = int(layer.groups)  # type: ignore[arg-type]
    grouped = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, C_in, C_out, *kernel]
    factors = factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (grouped * factors).reshape(weight.shape)
