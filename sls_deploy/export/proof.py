"""Evidence level L0: the weights in the file are the search's, and which are legal for 2:4."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.legality import is_2_4, why_not_eligible

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_REPORT = "The export is wrong: please report it."


@dataclass(frozen=True)
class LayerProof:
    """What the file holds of one layer."""

    name: str
    """Name as in ratios.json."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    nodes: tuple[str, ...]
    """Nodes of the graph that use the weight; several if the layer is used again."""
    shape: tuple[int, ...]
    """Shape of the weight, output channels first."""
    groups: int
    """Convolution groups."""
    nonzero: float
    """Share of the weights that are not zero."""
    rounded_to_zero: int
    """Weights that the search left nonzero and fp16 rounds to zero."""
    pruned: bool
    """Whether the search pruned the layer."""
    legal_2_4: bool
    """Whether every 4 consecutive input channels hold at most 2 nonzeros, for each filter and tap;
    an incomplete last quad counts as padded with zeros."""
    eligible: bool
    """Whether an Ampere GPU can run it on sparse tensor cores; never says that it will."""
    reason: str
    """Why it is not eligible; empty if it is."""


@dataclass(frozen=True)
class _Use:
    """A node with a weight among the initialisers."""

    node: str
    operator: str
    layer: str
    weight: NDArray[Any]
    groups: int


def prove(
    path: Path, weights: Mapping[str, NDArray[Any]], ratios: Sequence[Mapping[str, Any]]
) -> tuple[LayerProof, ...]:
    """Read a file back from disk and compare it with the search's weights.

    Every parameter in it must equal the search's: exactly in fp32, rounded to nearest in fp16.
    So its zeros are the search's zeros and, in fp16, those that rounding adds.

    Args:
        path: the ONNX file.
        weights: the search's state dict, by parameter name, with folded normalisations.
        ratios: the layers of ratios.json.

    Returns:
        One entry for each weight that convolutions and matrix products use, in graph order.

    Raises:
        SlsError: the file cannot be read, a weight differs, or a pruned layer is not in it.
    """
    try:
        model = onnx.load_from_string(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise SlsError(f"cannot be read as ONNX ({error})", str(path), _REPORT) from None
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for name, array in arrays.items():
        if name in weights:
            _check_equal(array, weights[name], name)
    layers: dict[str, list[_Use]] = {}
    for use in _uses(model.graph, arrays, weights):
        layers.setdefault(use.layer, []).append(use)
    pruned = {layer["name"] for layer in ratios if layer["kept"] < layer["of"]}
    if lost := sorted(pruned - layers.keys()):
        raise SlsError(f"does not hold the pruned layers {', '.join(lost)}", "the file", _REPORT)
    return tuple(
        _prove_layer(uses, weights.get(f"{name}.weight"), pruned=name in pruned)
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
        elif name.endswith(".weight") and np.count_nonzero(array[searched[name] == 0]):
            raise SlsError("has weights where the search left zeros", name, _REPORT)


def _check_equal(array: NDArray[Any], source: NDArray[Any], name: str) -> None:
    if not np.array_equal(array, source.astype(array.dtype)):
        raise SlsError("differs in the file from the search's weights", name, _REPORT)


def _uses(
    graph: onnx.GraphProto, arrays: Mapping[str, NDArray[Any]], weights: Mapping[str, NDArray[Any]]
) -> Iterator[_Use]:
    """Every use of a weight, turned so that output channels come first."""
    for node in graph.node:
        if node.op_type not in _WEIGHTED:
            continue
        name = node.input[1]
        if name not in arrays:
            if node.op_type.startswith("Conv"):
                raise SlsError("has weights that the graph computes", node.name, _REPORT)
            continue  # a product of two activations
        if arrays[name].ndim < 2:
            continue  # a product with a vector has no filters
        attributes = {item.name: item.i for item in node.attribute}
        weight, layer = arrays[name], name.removesuffix(".weight")
        groups = attributes.get("group", 1)
        if node.op_type == "ConvTranspose":
            weight = _filters_first(weight, groups)
        elif node.op_type != "Conv" and not attributes.get("transB"):
            weight = np.swapaxes(weight, -1, -2)
        if name not in weights:  # the exporter turns the weights of some products in advance
            key = f"{node.name.rpartition('.')[0]}.weight"
            if key in weights and weights[key].shape == weight.shape:
                _check_equal(weight, weights[key], key)
                layer = key.removesuffix(".weight")
        yield _Use(node.name, node.op_type, layer, weight, groups)


def _filters_first(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """A transposed convolution's weight as that of a convolution: [C_out, C_in / groups, ...]."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.swapaxes(1, 2).reshape(-1, *grouped.shape[1:2], *weight.shape[2:])


def _prove_layer(uses: Sequence[_Use], source: NDArray[Any] | None, *, pruned: bool) -> LayerProof:
    first = uses[0]
    weight = first.weight
    legal = is_2_4(weight)
    rounded = 0 if source is None else int(np.count_nonzero(source) - np.count_nonzero(weight))
    transposed = first.operator == "ConvTranspose"
    reason = why_not_eligible(weight.shape[1], first.groups, legal=legal, transposed=transposed)
    return LayerProof(
        name=first.layer,
        operator=first.operator,
        nodes=tuple(use.node for use in uses),
        shape=weight.shape,
        groups=first.groups,
        nonzero=round(np.count_nonzero(weight) / weight.size, 6),
        rounded_to_zero=rounded,
        pruned=pruned,
        legal_2_4=legal,
        eligible=not reason,
        reason=reason,
    )
