"""Operators that compute every place for itself, and those that sum over channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sls_deploy.receptive.axis import Axis
from sls_deploy.receptive.values import Fixed, Operator, Pixels, Unfollowed, Value, along

_ALONG = "looks at the whole picture"
_OTHER_FORMS = "computes with tensors of other forms"
_TABLE = "its {} holds a number for every place of the picture"
_BY_SIZE = "its {} computes with the tile's size"


def each(operator: Operator) -> Pixels:
    """An operator on every element; other inputs hold numbers for all or for each channel."""
    pixels = operator.pixels()
    if operator.attributes.get("training_mode", 0):
        raise Unfollowed(_ALONG)
    for value in operator.inputs[1:]:
        if value is None:
            continue
        if not isinstance(value, Fixed) or value.shape is None:
            return along(pixels, pixels.axes, _BY_SIZE.format(operator))
        axis = int(operator.attributes.get("axis", 1))
        if math.prod(value.shape) != 1 and pixels.spatial(axis):
            return along(pixels, pixels.axes, _TABLE.format(operator))
    return pixels


def together(operator: Operator) -> Pixels:
    """An operator on the elements that stand at one place of several tensors."""
    shapes = [_axes(value) for value in operator.inputs]
    inexact = _BY_SIZE.format(operator) if None in shapes else ""
    rank = max(len(shape) for shape in shapes if shape is not None)
    axes: list[Axis | int | None] = [1] * rank
    for place in range(-rank, 0):
        here = [
            (value, shape[place])
            for value, shape in zip(operator.inputs, shapes, strict=True)
            if shape is not None and len(shape) >= -place
        ]
        for _, axis in here:
            axes[place] = _merged(axis, axes[place])
        for value, axis in here:
            if isinstance(axes[place], Axis) and not isinstance(axis, Axis) and axis != 1:
                if isinstance(value, Pixels):
                    raise Unfollowed(_OTHER_FORMS)
                inexact = _TABLE.format(operator)
    return _along_all(operator, axes, inexact)


def concat(operator: Operator) -> Pixels:
    """Concat along an axis on which the picture does not lie."""
    shapes = [_axes(value) for value in operator.inputs]
    rank = next(len(value.axes) for value in operator.inputs if isinstance(value, Pixels))
    place = int(operator.attributes.get("axis", 0)) % rank
    axes: list[Axis | int | None] = [1] * rank
    counts: list[int | None] = []
    for shape in shapes:
        if shape is None or len(shape) != rank:
            raise Unfollowed(_OTHER_FORMS)
        for at, axis in enumerate(shape):
            if at != place:
                axes[at] = _merged(axis, axes[at])
            elif isinstance(axis, Axis):
                raise Unfollowed("joins pictures side by side")
            else:
                counts.append(axis)
    known = [count for count in counts if count is not None]
    axes[place] = sum(known) if len(known) == len(counts) else None
    tables = any(isinstance(value, Fixed) for value in operator.inputs)
    return _along_all(operator, axes, _TABLE.format(operator) if tables else "")


def reduce(operator: Operator) -> Pixels:
    """A sum, mean or maximum over axes on which the picture does not lie."""
    pixels, named = operator.pixels(), operator.numbers("axes", 1)
    rank = len(pixels.axes)
    gone = {place % rank for place in named or range(rank)}
    if any(pixels.spatial(place) for place in gone):
        raise Unfollowed(_ALONG)
    if operator.attributes.get("keepdims", 1):
        return along(pixels, [1 if at in gone else axis for at, axis in enumerate(pixels.axes)])
    return along(pixels, [axis for at, axis in enumerate(pixels.axes) if at not in gone])


def normalize(operator: Operator) -> Pixels:
    """LayerNormalization, over the last axes, and Softmax, over one."""
    pixels = operator.pixels()
    rank = len(pixels.axes)
    first = int(operator.attributes.get("axis", -1)) % rank
    last = rank if operator.kind == "LayerNormalization" else first + 1
    if any(pixels.spatial(place) for place in range(first, last)):
        raise Unfollowed(_ALONG)
    return pixels


def product(operator: Operator) -> Pixels:
    """MatMul of the last axis with a matrix that is constant."""
    pixels, weight = operator.pixels(), operator.given(1)
    if not isinstance(weight, Fixed) or weight.shape is None or len(weight.shape) != 2:
        raise Unfollowed("multiplies by what is no constant matrix")
    if pixels.spatial(-1):
        raise Unfollowed(_ALONG)
    return along(pixels, [*pixels.axes[:-1], weight.shape[1]])


def _axes(value: Value | None) -> Sequence[Axis | int | None] | None:
    """The axes of an input; None if they are not known, as the size of the picture decides them."""
    if isinstance(value, Pixels):
        return value.axes
    return value.shape if isinstance(value, Fixed) else None


def _merged(one: Axis | int | None, two: Axis | int | None) -> Axis | int | None:
    if isinstance(one, Axis) and isinstance(two, Axis):
        joined = one.joined(two)
        if joined is None:
            raise Unfollowed(_OTHER_FORMS)
        return joined
    if isinstance(one, Axis) or isinstance(two, Axis):
        return one if isinstance(one, Axis) else two
    if one is None or two is None:
        return None
    return max(one, two)


def _along_all(operator: Operator, axes: Sequence[Axis | int | None], inexact: str) -> Pixels:
    """The result of an operator on several tensors."""
    given = [value for value in operator.inputs if isinstance(value, Pixels)]
    multiple = math.lcm(*(value.multiple for value in given))
    reasons = [value.inexact for value in given if value.inexact]
    return along(Pixels(tuple(axes), multiple, reasons[0] if reasons else ""), axes, inexact)
