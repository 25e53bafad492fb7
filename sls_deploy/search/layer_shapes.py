"""The shapes in which a device sees the uses of a layer, at one size of picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.layers import Layer
from sls_deploy.search.trace import Size, trace
from sls_deploy.sizes import padded_side

Sizes = Mapping[str, tuple[Size, ...]]
"""Rows and columns of places at which each layer is applied, use by use."""
_LEAST_GAIN = 0.01
"""Share of a dense layer's time that 2:4 must save to count, at least. A roofline always finds a
little, because 2:4 weights take fewer bytes."""
_LARGEST_CROP = 256
"""Side in pixels up to which a search may run the network on pictures of a size."""


def padded_picture(model: RestorationModel, picture: Size) -> Size:
    """The picture that a network really gets: sides rounded up to what it takes, in pixels."""
    about = model.description
    height, width = (padded_side(side, about.least_side, about.multiple) for side in picture)
    return height, width


def sizes_of_uses(model: RestorationModel, picture: Size) -> Sizes:
    """Where the layers of a network are applied in a picture of one size.

    The network does not compute for that, so large pictures take no longer.

    Args:
        model: the network.
        picture: height and width in pixels.

    Returns:
        By name of the layer; empty if the network cannot be traced at that size.
    """
    try:
        return trace(model, picture, only_looked_at=max(picture) > _LARGEST_CROP).sizes
    except SlsError:
        return {}


def shapes_of_uses(
    layer: Layer, inputs: int, outputs: int, picture: Size, sizes: Sizes
) -> Counter[LayerShape]:
    """A layer as a device sees it, with how often it does for one picture.

    Where its sizes are not known, they are scaled from the crops of the search with the picture;
    several uses then count as so many of their mean size.

    Args:
        layer: the layer; one that is not used has no shapes.
        inputs: input channels kept of one convolution group.
        outputs: output channels kept of one convolution group.
        picture: height and width of the input picture in pixels.
        sizes: from `sizes_of_uses` for that picture.
    """
    kernel = layer.shape[2:]
    ones = (1,) * len(kernel)
    return Counter(
        LayerShape(
            kind=layer.kind,
            kernel=kernel,
            stride=layer.stride or ones,
            dilation=layer.dilation or ones,
            inputs=inputs,
            outputs=outputs,
            groups=layer.groups,
            height=height,
            width=width,
        )
        for height, width in sizes.get(layer.name) or _scaled(layer, picture)
    )


def time_of_uses(
    shapes: Counter[LayerShape],
    times: Callable[[LayerShape], tuple[float, float, float]],
    sparse: bool,
) -> float:
    """Time of all uses of a layer; dense where 2:4 gains too little: then a dense kernel is taken.

    Args:
        shapes: from `shapes_of_uses`.
        times: gives dense and 2:4 time of one, and the share of them that is noise.
        sparse: whether its weights run on sparse tensor cores.
    """
    total = 0.0
    for shape, uses in shapes.items():
        dense, pruned, noise = times(shape)
        gains = pruned < dense * (1 - max(_LEAST_GAIN, noise))
        total += uses * (pruned if sparse and gains else dense)
    return total


def _scaled(layer: Layer, picture: Size) -> list[Size]:
    """The mean size of the uses of a layer, as often as it is used."""
    if not layer.macs:
        return []
    share = math.sqrt(layer.macs / math.prod(layer.shape) / layer.uses)
    height, width = (max(1, round(side * share)) for side in picture)
    return [(height, width)] * layer.uses
