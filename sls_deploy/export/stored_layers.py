"""What the layers of any ONNX graph are, as far as 2:4 sparsity is concerned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sls_deploy.export.stored_weights import WeightUse, weight_uses
from sls_deploy.sparsity.legality import is_2_4, why_not_eligible

_COMPUTED = "its weights come through operators that are not followed"


@dataclass(frozen=True)
class StoredLayer:
    """What a file holds of one layer."""

    name: str
    """Name as in ratios.json, or that of the weight."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    nodes: tuple[str, ...]
    """Nodes of the graph that use the weight; several if the layer is used again."""
    shape: tuple[int, ...]
    """Shape of the weight, output channels first."""
    groups: int
    """Convolution groups."""
    precision: str
    """Precision of the weight, such as 'fp16' or 'int8'; empty if it is not stored."""
    nonzero: float
    """Share of the weights that are not zero."""
    legal_2_4: bool
    """Whether every 4 consecutive input channels hold at most 2 nonzeros, for each filter and tap;
    an incomplete last quad counts as padded with zeros."""
    eligible: bool
    """Whether an Ampere GPU can run it on sparse tensor cores; never says that it will."""
    reason: str
    """Why it is not eligible; empty if it is."""


def stored_layers(model: onnx.ModelProto) -> tuple[StoredLayer, ...]:
    """List the layers of a graph, whoever exported it.

    Args:
        model: a sound one, as `read_model` gives it.

    Returns:
        One entry for each weight that convolutions and matrix products use, in graph order.

    Raises:
        SlsError: a weight does not fit its operator.
    """
    layers: dict[str, list[WeightUse]] = {}
    for use in weight_uses(model):
        layers.setdefault(layer_name(use), []).append(use)
    return tuple(describe(name, uses) for name, uses in layers.items())


def layer_name(use: WeightUse) -> str:
    """The layer that a weight belongs to, by its name; by its node where it has none."""
    if use.weight is None:
        return use.node
    return use.weight.name.removesuffix(".weight")


def describe(name: str, uses: Sequence[WeightUse]) -> StoredLayer:
    """Describe a layer by the first of its uses."""
    first = uses[0]
    weight, filters = first.weight, first.filters
    legal = weight is not None and is_2_4(filters)
    transposed = first.operator == "ConvTranspose"
    channels = filters.shape[1] if filters.ndim > 1 else 0
    reason = why_not_eligible(channels, first.groups, legal=legal, transposed=transposed)
    if weight is None:
        reason = _COMPUTED
    return StoredLayer(
        name=name,
        operator=first.operator,
        nodes=tuple(use.node for use in uses),
        shape=filters.shape if weight else (),
        groups=first.groups,
        precision=weight.precision if weight else "",
        nonzero=round(float(np.count_nonzero(filters)) / max(1, filters.size), 6),
        legal_2_4=legal,
        eligible=not reason,
        reason=reason,
    )
