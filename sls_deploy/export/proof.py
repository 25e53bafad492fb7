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
from sls_deploy.export.stored_layers import StoredLayer, describe, layer_name
from sls_deploy.export.stored_weights import StoredWeight, WeightUse, weight_uses
from sls_deploy.onnx_file import read_model

_REPORT = "The export is wrong: please report it."
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
    path: Path, weights: Mapping[str, NDArray[Any]], ratios: Sequence[Mapping[str, Any]]
) -> tuple[LayerProof, ...]:
    """Read a file back from disk and compare it with the search's weights.

    Every parameter in it must equal the search's: exactly in fp32, rounded to nearest in fp16 and
    bf16. An int8 weight must lie within half a step of it; the bias beside one may be another,
    since int8 corrects it. Every zero of the search must be one in the file. So its zeros are the
    search's zeros and those that rounding adds.

    Args:
        path: the ONNX file.
        weights: the search's state dict, by parameter name, with folded normalisations.
        ratios: the layers of ratios.json.

    Returns:
        One entry for each weight that convolutions and matrix products use, in graph order.

    Raises:
        SlsError: the file cannot be read, a weight differs or is computed by the graph, or a pruned
            layer is not in it.
    """
    model = read_model(path)
    layers: dict[str, list[WeightUse]] = {}
    quantised: set[str] = set()
    seen: set[str] = set()
    for use in weight_uses(model):
        if use.weight is None:
            raise SlsError("has weights that the graph computes", use.node, _REPORT)
        layer = _check_use(use, use.weight, weights)
        layers.setdefault(layer, []).append(use)
        seen.add(use.weight.name)
        if use.weight.scale is not None:
            quantised.add(f"{layer}.bias")
    for item in model.graph.initializer:
        if item.name in weights and item.name not in seen | quantised:
            _check_equal(numpy_helper.to_array(item), weights[item.name], item.name)
    pruned = {layer["name"] for layer in ratios if layer["kept"] < layer["of"]}
    if lost := sorted(pruned - layers.keys()):
        raise SlsError(f"does not hold the pruned layers {', '.join(lost)}", "the file", _REPORT)
    return tuple(
        _prove_layer(name, uses, weights.get(f"{name}.weight"), pruned=name in pruned)
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


def _check_use(use: WeightUse, weight: StoredWeight, weights: Mapping[str, NDArray[Any]]) -> str:
    """Compare a weight with the search's, and return its layer."""
    layer = layer_name(use)
    if weight.moved:
        raise SlsError("has a zero point other than 0", weight.name, _REPORT)
    if weight.name in weights:
        _check_same(weight.values, weight.scale, weights[weight.name], weight.name)
        return layer
    # The exporter turns the weights of some products in advance, and names them anew.
    key = f"{use.node.rpartition('.')[0]}.weight"
    if key in weights and weights[key].shape == use.filters.shape:
        _check_same(use.filters, use.scales, weights[key], key)
        return key.removesuffix(".weight")
    return layer


def _check_same(
    values: NDArray[Any], scale: NDArray[Any] | None, source: NDArray[Any], name: str
) -> None:
    if values.shape != source.shape:
        what = f"has shape {list(values.shape)} where the search has {list(source.shape)}"
        raise SlsError(what, name, _REPORT)
    _check_zeros(values, source, name)
    if scale is None:
        _check_equal(values, source, name)
        return
    step, wanted = scale.astype(np.float64), source.astype(np.float64)
    clipped = np.clip(wanted, -_LARGEST * step, _LARGEST * step)
    far = np.abs(values * step - clipped) > _HALF_STEP * step
    lowest = (values < -_LARGEST) & (wanted < -(_LARGEST + 1 - _HALF_STEP) * step)
    if (far & ~lowest).any():
        raise SlsError("lies more than half a step from the search's weights", name, _REPORT)


def _check_zeros(array: NDArray[Any], source: NDArray[Any], name: str) -> None:
    if np.count_nonzero(array[source == 0]):
        raise SlsError("has weights where the search left zeros", name, _REPORT)


def _check_equal(array: NDArray[Any], source: NDArray[Any], name: str) -> None:
    with np.errstate(over="ignore"):
        rounded = source.astype(array.dtype)
    if not np.array_equal(array, rounded):
        raise SlsError("differs in the file from the search's weights", name, _REPORT)


def _prove_layer(
    name: str, uses: Sequence[WeightUse], source: NDArray[Any] | None, *, pruned: bool
) -> LayerProof:
    filters = uses[0].filters
    rounded = 0 if source is None else int(np.count_nonzero(source) - np.count_nonzero(filters))
    return LayerProof(**vars(describe(name, uses)), pruned=pruned, rounded_to_zero=rounded)
