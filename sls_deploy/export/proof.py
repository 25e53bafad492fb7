"""Evidence level L0: the weights in the file are the search's, and which are legal for 2:4."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.stored_layers import StoredLayer, describe
from sls_deploy.onnx_constants import StoredWeight
from sls_deploy.onnx_file import read_model
from sls_deploy.onnx_layers import WeightUse, weight_uses

_REPORT = "The export is wrong: please report it."
_STORE = "Hold it as a parameter or a buffer of the network, not as a result of others."
_NEW_WEIGHTS = "has weights where the search left zeros"
_OTHER_WEIGHTS = "differs in the file from the search's weights"
_HALF_STEP = 0.5 + 1e-3
"""Most that an integer may lie from its weight, in steps; the rest is float rounding."""
_LARGEST = 127
"""Largest integer; -128 is taken only for what lies nearer to it than to -127."""


@dataclass(frozen=True)
class LayerProof(StoredLayer):
    """What the file holds of one layer, beside what the search left of it."""

    pruned: bool
    """Whether the search pruned the layer."""
    rounded_to_zero: int
    """Weights that the search left nonzero and the precision rounds to zero."""


def prove(
    path: Path,
    weights: Mapping[str, NDArray[Any]],
    ratios: Sequence[Mapping[str, Any]],
    corrected: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[LayerProof, ...]:
    """Read a file back from disk and compare it with the search's weights.

    Every weight of a convolution or a product must be one of the search's, and so must all that
    has the name of a parameter: exactly in fp32, rounded to nearest in fp16 and bf16. An int8
    weight must lie within half a step of it; the bias beside one may be another, since int8
    corrects it. Every zero of the search must be one in the file. So its zeros are the search's
    zeros and those that rounding adds.

    Args:
        path: the ONNX file.
        weights: the search's state dict, by parameter name, with folded normalisations.
        ratios: the layers of ratios.json.
        corrected: what the biases of int8 layers must be, by name; others must be the search's.
            None if that is not known: then no bias of an int8 layer is compared.

    Returns:
        One entry for each weight that convolutions and matrix products use, in graph order.

    Raises:
        SlsError: the file cannot be read; a weight differs, is none of the search's or is computed
            by the graph; a layer that is pruned, or that the picture depends on, is not in it.
    """
    model = read_model(path)
    layers: dict[str, list[WeightUse]] = {}
    seen: set[str] = set()
    found: set[str] = set()
    free: set[str] = set()
    for use in weight_uses(model):
        if use.weight is None:
            raise SlsError(f"has weights that cannot be proved: {use.reason}", use.node, _STORE)
        key = _check_use(use, use.weight, weights)
        layer = key.removesuffix(".weight")
        layers.setdefault(layer, []).append(use)
        seen.add(use.weight.name)
        found.add(key)
        if use.weight.scale is not None:
            free.add(f"{layer}.bias")
    for item in model.graph.initializer:
        name = item.name
        if name in seen or name not in weights or (name in free and corrected is None):
            continue
        wanted = corrected.get(name, weights[name]) if corrected and name in free else weights[name]
        _check_equal(numpy_helper.to_array(item), wanted, name)
    stored = found | {item.name for item in model.graph.initializer}
    _check_complete(ratios, layers, stored, weights, corrected or {})
    pruned = {layer["name"] for layer in ratios if layer["kept"] < layer["of"]}
    return tuple(
        _prove_layer(name, uses, _source(name, weights), pruned=name in pruned)
        for name, uses in layers.items()
    )


def check_folded(
    searched: Mapping[str, NDArray[Any]],
    folded: Mapping[str, NDArray[Any]],
    layers: Collection[str],
) -> None:
    """See that folding normalisations changed nothing but the scale of whole filters.

    Args:
        searched: the search's state dict.
        folded: the state dict that is exported.
        layers: the layers that a normalisation was folded into.

    Raises:
        SlsError: another parameter changed, or a weight that was zero is not any more.
    """
    changeable = {f"{layer}.{suffix}" for layer in layers for suffix in ("weight", "bias")}
    for name, array in folded.items():
        if name not in changeable:
            _check_equal(array, searched[name], name)
        elif name.endswith(".weight"):
            _check_zeros(array, searched[name], name)


def _check_complete(
    ratios: Sequence[Mapping[str, Any]],
    layers: Collection[str],
    stored: Collection[str],
    weights: Collection[str],
    corrected: Collection[str],
) -> None:
    """See that nothing of the search is missing that the picture depends on."""
    lost = {name for name in corrected if name not in stored}
    for layer in ratios:
        name, used = layer["name"], layer.get("uses", 1) > 0
        parameter = layer.get("parameter", f"{name}.weight")
        # A dense weight may be read by other operators; names of computed ones are no parameters.
        gone = used and parameter in weights and parameter not in stored
        if gone or (layer["kept"] < layer["of"] and name not in layers):
            lost.add(name)
    if lost:
        raise SlsError(f"does not hold the layers {', '.join(sorted(lost))}", "the file", _REPORT)


def _check_use(use: WeightUse, weight: StoredWeight, weights: Mapping[str, NDArray[Any]]) -> str:
    """Compare a weight with the search's, and return the parameter that it is."""
    if weight.moved:
        raise SlsError("has a zero point other than 0", weight.name, _REPORT)
    if weight.name in weights:
        _check_same(weight.values, weight.scale, weights[weight.name], weight.name)
        return weight.name
    # The exporter turns the weights of some products in advance, and names them anew.
    mine = f"{use.node.rpartition('.')[0]}.weight"
    ordered = [mine] if mine in weights else []
    ordered += [key for key in weights if weights[key].ndim >= 2 and key != mine]
    forms = ((use.filters, use.scales), (weight.values, weight.scale))
    for key in ordered:
        shape = weights[key].shape
        for values, scale in forms:
            if values.size == weights[key].size:
                steps = None if scale is None else scale.reshape(shape)
                if not _difference(values.reshape(shape), steps, weights[key]):
                    return key
    if mine in weights and weights[mine].shape == use.filters.shape:
        _check_same(use.filters, use.scales, weights[mine], mine)
    raise SlsError("is a weight that the search does not have", weight.name, _STORE)


def _check_same(
    values: NDArray[Any], scale: NDArray[Any] | None, source: NDArray[Any], name: str
) -> None:
    if values.shape != source.shape:
        what = f"has shape {list(values.shape)} where the search has {list(source.shape)}"
        raise SlsError(what, name, _REPORT)
    if what := _difference(values, scale, source):
        raise SlsError(what, name, _REPORT)


def _difference(values: NDArray[Any], scale: NDArray[Any] | None, source: NDArray[Any]) -> str:
    """How a weight differs from the search's of the same shape; empty if it does not."""
    if np.count_nonzero(values[source == 0]):
        return _NEW_WEIGHTS
    if scale is None:
        return "" if _is_rounded(values, source) else _OTHER_WEIGHTS
    step, wanted = scale.astype(np.float64), source.astype(np.float64)
    clipped = np.clip(wanted, -_LARGEST * step, _LARGEST * step)
    far = np.abs(values * step - clipped) > _HALF_STEP * step
    lowest = (values < -_LARGEST) & (wanted < -(_LARGEST + 1 - _HALF_STEP) * step)
    if (far & ~lowest).any():
        return "lies more than half a step from the search's weights"
    return ""


def _is_rounded(array: NDArray[Any], source: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(array, source.astype(array.dtype))


def _check_zeros(array: NDArray[Any], source: NDArray[Any], name: str) -> None:
    if np.count_nonzero(array[source == 0]):
        raise SlsError(_NEW_WEIGHTS, name, _REPORT)


def _check_equal(array: NDArray[Any], source: NDArray[Any], name: str) -> None:
    if not _is_rounded(array, source):
        raise SlsError(_OTHER_WEIGHTS, name, _REPORT)


def _source(name: str, weights: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The parameter of a layer, whose own name the layer has if that does not end in 'weight'."""
    key = f"{name}.weight"
    return weights[key] if key in weights else weights[name]


def _prove_layer(
    name: str, uses: Sequence[WeightUse], source: NDArray[Any], *, pruned: bool
) -> LayerProof:
    filters = uses[0].filters
    rounded = int(np.count_nonzero(source) - np.count_nonzero(filters))
    return LayerProof(**vars(describe(name, uses)), pruned=pruned, rounded_to_zero=rounded)
