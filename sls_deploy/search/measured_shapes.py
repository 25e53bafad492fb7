"""Which layers a latency table must hold, so that a search finds all that it may choose."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.config import Config
from sls_deploy.errors import SlsError
from sls_deploy.models.model import load_model
from sls_deploy.search.cost import dense_form
from sls_deploy.search.interiors import Interior, narrowed_interiors
from sls_deploy.search.layer_shapes import (
    Sizes,
    padded_picture,
    shapes_of_uses,
    sizes_of_uses,
)
from sls_deploy.search.layers import Layer
from sls_deploy.search.prepare import prepare
from sls_deploy.sparsity.pattern import Pattern

_ALL_UP_TO = 4
"""Widths, counted in steps, up to which every one is measured; beyond, every doubling is, and the
table interpolates."""


@dataclass(frozen=True)
class MeasuredShapes:
    """What to measure for one network and one size of picture."""

    picture: tuple[int, int]
    """Height and width that the network really gets, in pixels: the sides asked for, rounded up to
    what it takes."""
    shapes: tuple[LayerShape, ...]
    """The distinct layers, dense and narrowed."""
    layers: int
    """Layers of the network."""


def shapes_of_network(config: Config, picture: tuple[int, int]) -> MeasuredShapes:
    """What a search with these settings may look up.

    Args:
        config: names the network, and says how a search fills up and narrows its channels.
        picture: height and width of the pictures that it will restore, in pixels.

    Raises:
        SlsError: the network cannot be loaded or traced as the settings need it.
    """
    if config.model.weights is None:
        raise SlsError("no checkpoint was named", "--weights", "Give that of the dense network.")
    model = load_model(config.model.weights, config.model)
    found = prepare(model, config)
    search, padded = found.config.search, padded_picture(found.model, picture)
    pattern = Pattern.parse(search.pattern)
    interiors = (
        narrowed_interiors(
            found.graph, [layer.name for layer in found.prunable], pattern, search.narrow
        )
        if found.graph is not None
        else []
    )
    sizes = sizes_of_uses(found.model, padded)
    shapes = shapes_to_measure(found.layers, padded, interiors, search.narrow, sizes)
    return MeasuredShapes(padded, tuple(shapes), len(found.layers))


def shapes_to_measure(
    layers: Iterable[Layer],
    picture: tuple[int, int],
    interiors: Sequence[Interior] = (),
    step: int = 0,
    sizes: Sizes | None = None,
) -> list[LayerShape]:
    """The layers of a network, whole and as narrow as their interiors may become.

    Args:
        layers: all its layers; those that are not used cost nothing and are left out.
        picture: height and width of the input picture in pixels.
        interiors: channels that may be dropped.
        step: of which their widths are multiples.
        sizes: where the layers are applied in that picture; scaled from crops if left out.
    """
    writes = {name: item.channels for item in interiors for name in item.producers}
    reads = {name: item.channels for item in interiors for name in item.consumers}
    shapes: dict[LayerShape, None] = {}
    for layer in layers:
        whole = dense_form(layer)
        inputs = _widths(reads[layer.name], step) if layer.name in reads else [whole.inputs]
        outputs = _widths(writes[layer.name], step) if layer.name in writes else [whole.outputs]
        for i, o in itertools.product(inputs, outputs):
            shapes |= dict.fromkeys(shapes_of_uses(layer, i, o, picture, sizes or {}))
    return list(shapes)


def _widths(channels: int, step: int) -> list[int]:
    """Widths of an interior that are measured, the whole one first."""
    counts = [1, 2, 3, _ALL_UP_TO]
    while counts[-1] * step < channels:
        counts.append(2 * counts[-1])
    return [channels, *(count * step for count in reversed(counts) if count * step < channels)]
