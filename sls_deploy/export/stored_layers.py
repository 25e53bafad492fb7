"""What the layers of any ONNX graph are, as far as 2:4 sparsity is concerned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sls_deploy.onnx_layers import WeightUse, weight_uses
from sls_deploy.sparsity.legality import is_2_4, why_not_eligible


@dataclass(frozen=True)
class StoredLayer:
    """What a file holds of one layer."""

    name: str
    """Name as in ratios.json, that of the weight, or that of the node if it is not followed."""
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
        One entry for each weight that convolutions and matrix products use, in graph order, and one
        for each operator whose weight cannot be followed.

    Raises:
        SlsError: a weight does not fit its operator.
    """
    layers: dict[str | int, list[WeightUse]] = {}
    for number, use in enumerate(weight_uses(model)):
        key = number if use.weight is None else use.weight.name
        layers.setdefault(key, []).append(use)
    names = Counter(layer_name(use) for use, *_ in layers.values())
    return tuple(
        # Such as of 'a' and 'a.weight', of which each has the name of the other's layer.
        describe(str(key) if uses[0].weight and names[name] > 1 else name, uses)
        for key, uses in layers.items()
        for name in [layer_name(uses[0])]
    )


def layer_name(use: WeightUse) -> str:
    """The layer that a weight belongs to, by its name; by its node where it has none."""
    if use.weight is None:
        return use.node
    return use.weight.name.removesuffix(".weight")


def describe(name: str, uses: Sequence[WeightUse]) -> StoredLayer:
    """Describe a layer by the first of its uses; it is legal and eligible if it is so in all."""
    first = uses[0]
    legal = [use.weight is not None and is_2_4(use.filters) for use in uses]
    reasons = map(_why_not_eligible, uses, legal)
    reason = next(filter(None, reasons), "")
    return StoredLayer(
        name=name,
        operator=first.operator,
        nodes=tuple(use.node for use in uses),
        shape=first.filters.shape if first.weight else (),
        groups=first.groups,
        precision=first.weight.precision if first.weight else "",
        nonzero=round(float(np.count_nonzero(first.filters)) / max(1, first.filters.size), 6),
        legal_2_4=all(legal),
        eligible=not reason,
        reason=reason,
    )


def _why_not_eligible(use: WeightUse, legal: bool) -> str:
    if use.weight is None:
        return use.reason
    transposed = use.operator == "ConvTranspose"
    return why_not_eligible(use.filters.shape[1], use.groups, legal=legal, transposed=transposed)
