"""The ways to prune each part of a network, with what each costs and loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from sls_deploy.search.allocate import Option, undominated
from sls_deploy.search.cost import CostModel, Form, dense_form
from sls_deploy.search.interiors import Interior
from sls_deploy.search.layers import Layer
from sls_deploy.search.sensitivity import Sensitivity
from sls_deploy.sparsity.pattern import Pattern

_MOST_WIDTHS = 4096
"""Combinations of widths tried in one part; beyond, its interiors are narrowed alike."""


@dataclass(frozen=True)
class Pick:
    """What is chosen in one part of the network."""

    units: tuple[tuple[str, int], ...]
    """Layers with the units that they keep."""
    widths: tuple[tuple[Interior, int], ...] = ()
    """Interiors with the channels that they keep."""


def candidates(
    layers: Sequence[Layer], pattern: Pattern, sensitivity: Sensitivity, model: CostModel
) -> list[list[Option[Pick]]]:
    """Options of every part; costs are shares of the layers' dense cost.

    A part is a layer, or layers that narrowed interiors connect: their costs multiply. Losses are
    taken to add up.

    Args:
        layers: the prunable layers.
        pattern: what their units are.
        sensitivity: what each change loses.
        model: what each form costs.
    """
    dense = sum(price(model, layer, pattern, pattern.units, {}) for layer in layers)
    parts = []
    for group in _connected(layers, list(sensitivity.interiors)):
        inside = [
            item
            for item in sensitivity.interiors
            if any(layer.name in (*item.producers, *item.consumers) for layer in group)
        ]
        options: list[Option[Pick]] = []
        for widths in _widths(inside, sensitivity):
            lost = sum(sensitivity.interiors[item][width] for item, width in widths.items())
            merged = [Option(Pick((), tuple(widths.items())), 0.0, lost)]
            for layer in group:
                own = [
                    Option(
                        Pick(((layer.name, units),)),
                        price(model, layer, pattern, units, widths) / dense,
                        loss,
                    )
                    for units, loss in sensitivity.layers[layer.name].items()
                ]
                merged = undominated(
                    Option(
                        Pick(a.what.units + b.what.units, a.what.widths),
                        a.cost + b.cost,
                        a.loss + b.loss,
                    )
                    for a, b in product(merged, undominated(own))
                )
            options += merged
        parts.append(undominated(options))
    return parts


def least_cost(
    layers: Sequence[Layer], pattern: Pattern, widths: dict[Interior, int], model: CostModel
) -> float:
    """Cost of keeping the first unit of every layer at given widths, as a share of dense."""
    least = sum(price(model, layer, pattern, 1, widths) for layer in layers)
    return least / sum(price(model, layer, pattern, pattern.units, {}) for layer in layers)


def price(
    model: CostModel, layer: Layer, pattern: Pattern, units: int, widths: dict[Interior, int]
) -> float:
    """What a layer costs, in the unit of the cost model.

    Args:
        model: the cost model.
        layer: which layer.
        pattern: what its units are.
        units: how many it keeps.
        widths: channels that interiors keep.
    """
    form = dense_form(layer)
    outputs, inputs = form.outputs, form.inputs
    for interior, width in widths.items():
        outputs = width if layer.name in interior.producers else outputs
        inputs = width if layer.name in interior.consumers else inputs
    return model.price(layer, Form(inputs, outputs, *pattern.ratio(units)))


def _widths(inside: Sequence[Interior], measured: Sensitivity) -> list[dict[Interior, int]]:
    """Combinations of widths to try."""
    each = [list(measured.interiors[item]) for item in inside]
    count = 1
    for choices in each:
        count *= len(choices)
    if count <= _MOST_WIDTHS:
        return [dict(zip(inside, chosen, strict=True)) for chosen in product(*each)]
    steps = max(len(choices) for choices in each)
    return [
        {
            item: choices[min(step, len(choices) - 1)]
            for item, choices in zip(inside, each, strict=True)
        }
        for step in range(steps)
    ]


def _connected(layers: Sequence[Layer], interiors: Sequence[Interior]) -> list[list[Layer]]:
    """Layers grouped by the interiors that they share."""
    place = {layer.name: number for number, layer in enumerate(layers)}
    for interior in interiors:
        names = (*interior.producers, *interior.consumers)
        least = min(place[name] for name in names)
        joined = {place[name] for name in names}
        place = {name: least if at in joined else at for name, at in place.items()}
    groups: dict[int, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(place[layer.name], []).append(layer)
    return list(groups.values())
