"""Operators that move elements without computing: axes are exchanged, cut, joined and renamed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sls_deploy.receptive.axis import Axis, Size, filled, parted
from sls_deploy.receptive.values import (
    Fixed,
    Item,
    Numbers,
    Operator,
    Pixels,
    Unfollowed,
    along,
)

_ALONG = "works along the picture"
_LOST = "lays out pixels in a way that is not followed"


def transpose(operator: Operator) -> Pixels:
    """Transpose."""
    pixels = operator.pixels()
    order = operator.attributes.get("perm", range(len(pixels.axes))[::-1])
    return along(pixels, [pixels.axes[place] for place in order])


def split(operator: Operator) -> Pixels:
    """One part of a Split."""
    pixels = operator.pixels()
    axes = list(pixels.axes)
    axes[_other(pixels, int(operator.attributes.get("axis", 0)))] = None
    return along(pixels, axes)


def cut(operator: Operator) -> Pixels:
    """Slice along axes on which the picture does not lie."""
    pixels = operator.pixels()
    named = operator.numbers("axes", 3)
    axes = list(pixels.axes)
    for place in range(len(axes)) if named is None else named:
        if pixels.spatial(place):
            raise Unfollowed("cuts the picture")
        axes[place] = None
    return along(pixels, axes)


def gather(operator: Operator) -> Pixels:
    """Gather along an axis on which the picture does not lie."""
    pixels, places = operator.pixels(), operator.given(1)
    place = _other(pixels, int(operator.attributes.get("axis", 0)))
    if not isinstance(places, Fixed) or places.shape is None:
        raise Unfollowed(_LOST)
    return along(pixels, [*pixels.axes[:place], *places.shape, *pixels.axes[place + 1 :]])


def squeeze(operator: Operator) -> Pixels:
    """Squeeze of named axes."""
    pixels, named = operator.pixels(), operator.numbers("axes", 1)
    if named is None:
        raise Unfollowed(_LOST)
    gone = {_other(pixels, place) for place in named}
    return along(pixels, [axis for at, axis in enumerate(pixels.axes) if at not in gone])


def unsqueeze(operator: Operator) -> Pixels:
    """Unsqueeze."""
    pixels, named = operator.pixels(), operator.numbers("axes", 1)
    rank = len(pixels.axes) + len(named or [])
    new = {place % rank for place in named or []}
    old = iter(pixels.axes)
    return along(pixels, [1 if at in new else next(old) for at in range(rank)])


def reshape(operator: Operator) -> Pixels:
    """Reshape that keeps height and width, or parts them into blocks, or joins blocks to them.

    So pixel shuffles come, and frames or groups that become a batch.
    """
    pixels = operator.pixels()
    target = _shape(operator, pixels)
    sources = [at for at in range(len(pixels.axes)) if pixels.spatial(at)]
    places = [at for at, item in enumerate(target) if isinstance(item, Size)]
    if len(sources) != len(places):
        raise Unfollowed(_LOST)
    axes: list[Axis | int | None] = [
        item if isinstance(item, int) and item > 0 else None for item in target
    ]
    unsure = source = place = 0
    for source_at, place_at in zip(sources, places, strict=True):
        unsure += _segment(pixels.axes[source:source_at], target[place:place_at])
        axis, size = pixels.axes[source_at], target[place_at]
        beside = pixels.axes[source_at + 1] if source_at + 1 < len(pixels.axes) else None
        behind = target[place_at + 1] if place_at + 1 < len(target) else None
        assert isinstance(axis, Axis)  # noqa: S101 - chosen so above
        source, place = source_at + 1, place_at + 1
        if axis.size == size:
            axes[place_at] = axis
        elif isinstance(behind, int) and behind > 1 and axis.size.over(behind) == size:
            axes[place_at] = parted(axis, behind)
            place += 1
        elif isinstance(beside, int) and beside > 1 and axis.size.times(beside) == size:
            axes[place_at] = filled(axis, beside)
            source += 1
        else:
            raise Unfollowed(_LOST)
    unsure += _segment(pixels.axes[source:], target[place:])
    if unsure > 1:
        raise Unfollowed(_LOST)
    return along(pixels, axes)


def _shape(operator: Operator, pixels: Pixels) -> list[Item]:
    """The shape to reach; -1 stands as it is."""
    given = operator.given(1)
    if isinstance(given, Numbers):
        items = list(given.items)
    elif isinstance(given, Fixed):
        items = list(given.integers())
    else:
        raise Unfollowed(_LOST)
    if not operator.attributes.get("allowzero", 0):
        for place, item in enumerate(items):
            if item == 0 and place < len(pixels.axes):
                axis = pixels.axes[place]
                items[place] = axis.size if isinstance(axis, Axis) else axis
    return items


def _segment(source: Sequence[Axis | int | None], target: Sequence[Item]) -> int:
    """Compare axes between those of the picture.

    Returns:
        0 if they hold as many elements; 1 if that cannot be told, but follows if it is so for all
        others.

    Raises:
        Unfollowed: they do not.
    """
    here = [item for item in source if isinstance(item, int)]
    there = [item for item in target if isinstance(item, int) and item > 0]
    if len(here) < len(source) or len(there) < len(target):
        return 1
    if math.prod(here) != math.prod(there):
        raise Unfollowed(_LOST)
    return 0


def _other(pixels: Pixels, place: int) -> int:
    """The place of an axis, counted from the front.

    Raises:
        Unfollowed: the picture lies along it.
    """
    if pixels.spatial(place):
        raise Unfollowed(_ALONG)
    return place % len(pixels.axes)
