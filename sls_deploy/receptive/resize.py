"""Resize: by constant factors, or to a size that is computed from that of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from sls_deploy.receptive.axis import Axis, Size
from sls_deploy.receptive.values import (
    Fixed,
    Item,
    Numbers,
    Operator,
    Pixels,
    Unfollowed,
    along,
)

_SUPPORT = {"nearest": 1, "linear": 1, "cubic": 2}
"""Elements on either side of a place that its value is computed from."""
_LARGEST = 64
"""Largest number in a factor such as 3/2 that is taken as one."""
_HALVES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
_NAMED = "its {} hangs on the tile's size"


def resize(operator: Operator, sides: tuple[int | None, int | None]) -> Pixels:
    """Resize.

    Args:
        operator: the node.
        sides: height and width of the only pictures that the graph takes; None for open ones.
    """
    pixels = _picture(operator)
    rank = len(pixels.axes)
    named = operator.attributes.get("axes")
    places = range(rank) if named is None else [int(axis) % rank for axis in named]
    factors, sizes = _targets(operator)
    wanted: Sequence[Fraction | Item] = factors or sizes
    if (
        len(wanted) != len(places)
        or operator.text("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise Unfollowed("resizes in a way that is not followed")
    axes, inexact = list(pixels.axes), ""
    for place, target in zip(places, wanted, strict=True):
        axis = axes[place]
        if not isinstance(axis, Axis):
            axes[place] = None if isinstance(axis, int) and target != axis else axis
            continue
        if isinstance(target, Fraction):
            axes[place] = _by_factor(operator, axis, target)
            continue
        size = _known(target, axis, sides)
        ratio = axis.spacing / size.spacing
        same = axis.size.exact and size.exact and axis.size.least == size.least
        if same and _is_plain(ratio) and "align" not in _places(operator):
            axes[place] = replace(_by_factor(operator, axis, ratio), size=size)
        else:
            axes[place] = _to_size(operator, axis, size)
            inexact = _NAMED.format(operator)
    return along(pixels, axes, inexact)


def _picture(operator: Operator) -> Pixels:
    first = operator.given(0)
    if not isinstance(first, Pixels):
        raise Unfollowed("resizes what hangs on no pixel")
    # Before opset 11 it had two inputs and other rules.
    if operator.text("mode", "nearest") not in _SUPPORT or len(operator.inputs) < 3:
        raise Unfollowed("resizes in a way that is not followed")
    return first


def _targets(operator: Operator) -> tuple[list[Fraction], tuple[Item, ...]]:
    """Factors, or sizes where there are none."""
    factors, sizes = operator.given(2), operator.given(3)
    if isinstance(sizes, Numbers):
        return [], sizes.items
    if isinstance(sizes, Fixed):
        return [], tuple(sizes.integers())
    if not isinstance(factors, Fixed) or factors.array is None:
        raise Unfollowed("resizes by a factor that is computed")
    values = np.asarray(factors.array, np.float64).ravel()
    if not np.isfinite(values).all() or (values <= 0).any():
        raise Unfollowed("resizes by a factor that is none")
    found = [Fraction(float(item)) for item in values]
    if not all(map(_is_plain, found)):
        raise Unfollowed("resizes by a factor that is no simple fraction")
    return found, ()


def _is_plain(factor: Fraction) -> bool:
    return max(factor.numerator, factor.denominator) <= _LARGEST


def _known(target: Item, axis: Axis, sides: tuple[int | None, int | None]) -> Size:
    """The size to reach, with the spacing that elements have then."""
    if isinstance(target, Size) and target.side == axis.size.side:
        return target
    side = sides[axis.size.side]
    if isinstance(target, int) and target > 0 and side is not None:
        spacing = Fraction(side, target)
        if 1 in (spacing.numerator, spacing.denominator):
            return Size(axis.size.side, axis.size.grid, spacing)
    raise Unfollowed("resizes to a size that is not followed")


def _by_factor(operator: Operator, axis: Axis, factor: Fraction) -> Axis:
    """The axis behind resizing by a factor: what an element sees repeats."""
    up, down = factor.numerator, factor.denominator
    places, mode = _places(operator), operator.text("mode", "nearest")
    if places not in (*_HALVES, "asymmetric") or (places == "half_pixel_symmetric" and down > 1):
        raise Unfollowed("resizes by places that hang on the size of the picture")
    middle = Fraction(0) if places == "asymmetric" else Fraction(1, 2)
    antialias = bool(operator.attributes.get("antialias", 0))
    wider = max(Fraction(1), 1 / factor) if antialias else Fraction(1)
    support = _SUPPORT[mode] * wider

    def window(k: int) -> tuple[int, int]:
        place = (k + middle) / factor - middle
        if mode == "nearest" and not antialias:
            first, last = _nearest(operator.text("nearest_mode", "round_prefer_floor"), place)
        else:
            first, last = math.floor(place - support) + 1, math.ceil(place + support) - 1
        # The block that the element stands for: where that does not exist, the element does not.
        return min(first, k * down // up), max(last, -((-(k + 1) * down) // up) - 1)

    size = axis.size.times(up)
    return axis.through(up, down, window, size.over(down))


def _nearest(mode: str, place: Fraction) -> tuple[int, int]:
    """Elements that may be taken for a place: floating point may err at the border of two."""
    if mode == "floor":
        return math.floor(place), math.floor(place)
    if mode == "ceil":
        return math.ceil(place), math.ceil(place)
    return math.ceil(place - Fraction(1, 2)), math.floor(place + Fraction(1, 2))


def _to_size(operator: Operator, axis: Axis, size: Size) -> Axis:
    """The axis behind resizing to a size that is no constant share of what there is.

    Element j of n is read at place (j + 1/2) m / n - 1/2 of m elements. With m elements of spacing
    s over the picture's side and a pixels, n of spacing t over it and b pixels, that lies, in
    pixels, at most a - b from j t, and (t - s) / 2 for the halves.
    """
    places = _places(operator)
    if operator.attributes.get("antialias", 0):
        raise Unfollowed("smooths by the size of the picture")
    if places not in ("half_pixel", "asymmetric", "align_corners"):
        raise Unfollowed("resizes by places that hang on the size of the picture")
    axis = axis.settled()
    here, there = axis.spacing, size.spacing
    less, more = axis.size.least - size.most, axis.size.most - size.least
    if places == "align_corners":
        less, more = less - here + there, more - here + there
    moved = (there - here) / 2 if places == "half_pixel" else Fraction(0)
    reach = _SUPPORT[operator.text("mode", "nearest")] * here
    first = axis.first + moved + min(Fraction(0), less) - reach
    last = axis.last + moved + max(Fraction(0), more) + reach
    return Axis(size, first, last)


def _places(operator: Operator) -> str:
    return operator.text("coordinate_transformation_mode", "half_pixel")
