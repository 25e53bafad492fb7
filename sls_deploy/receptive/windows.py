"""Operators that compute an element from those around it: convolutions, pooling, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sls_deploy.receptive.axis import Axis, filled, parted, slid, spread
from sls_deploy.receptive.values import Fixed, Operator, Pixels, Unfollowed, along

_HEIGHT = 2
"""The first axis that windows move along; batch and channels are before it."""
_FOLDING = ("reflect", "edge")
_INFINITE = 2**31
"""More elements than any axis has: what moves an element further does not come from sound files."""


def window(operator: Operator) -> Pixels:
    """Conv, ConvTranspose, MaxPool and AveragePool."""
    pixels = operator.pixels()
    axes, count = pixels.axes, len(pixels.axes) - _HEIGHT
    if count < 1 or pixels.spatial(1):
        raise Unfollowed("adds up along the picture")
    weight = operator.given(1)
    kernel = operator.attributes.get("kernel_shape")
    if kernel is None and isinstance(weight, Fixed) and weight.shape is not None:
        kernel = weight.shape[_HEIGHT:]
    strides = _numbers(operator, "strides", count, 1, 1)
    spans = [
        (side - 1) * step + 1
        for side, step in zip(
            kernel or (), _numbers(operator, "dilations", count, 1, 1), strict=False
        )
    ]
    if len(spans) != count or min(spans) < 1:
        raise Unfollowed("has a window of unknown size")
    pads = _pads(operator, spans, strides)
    ceil = bool(operator.attributes.get("ceil_mode", 0))
    moved: list[Axis | int | None] = []
    extra = _numbers(operator, "output_padding", count, 0, 0)
    for number, axis in enumerate(axes[_HEIGHT:]):
        setting = spans[number], strides[number], pads[number]
        if not isinstance(axis, Axis):
            moved.append(None)
        elif operator.kind == "ConvTranspose":
            if "output_shape" in operator.attributes:
                raise Unfollowed("gives pictures of a fixed size")
            moved.append(spread(axis, *setting, extra[number]))
        else:
            moved.append(slid(axis, *setting, ceil=ceil))
    return along(pixels, [axes[0], _channels(operator, axes[1]), *moved])


def pad(operator: Operator) -> Pixels:
    """Pad: zeros hang on nothing, reflection and repetition on what lies inside the border."""
    pixels, mode = operator.pixels(), operator.text("mode", "constant")
    widths = operator.numbers("pads", 1)
    rank = len(pixels.axes)
    named = operator.numbers("axes", 3)
    places = range(rank) if named is None else [axis % rank for axis in named]
    if widths is None or len(widths) != 2 * len(places):
        raise Unfollowed("fills up by an unknown number of elements")
    if mode not in ("constant", *_FOLDING):
        raise Unfollowed("brings together opposite borders of the picture")
    axes = list(pixels.axes)
    for number, place in enumerate(places):
        begin, end = widths[number], widths[number + len(places)]
        axis = axes[place]
        if not isinstance(axis, Axis):
            axes[place] = None if axis is None else axis + begin + end
            continue
        if not (0 <= begin < _INFINITE and 0 <= end < _INFINITE):
            raise Unfollowed("cuts off what lies at the border")
        if (begin, end) == (0, 0):
            continue
        size = axis.size.plus(begin + end)
        wider = axis.through(1, 1, lambda k, begin=begin: (k - begin, k - begin), size)  # type: ignore[misc]
        folded = (begin, end) if mode in _FOLDING else (0, 0)
        axes[place] = replace(wider, folded=folded)
    return along(pixels, axes)


def shuffle(operator: Operator) -> Pixels:
    """DepthToSpace and SpaceToDepth."""
    pixels = operator.pixels()
    block = int(operator.attributes.get("blocksize", 0))
    if block < 1 or len(pixels.axes) != 4 or pixels.spatial(1):
        raise Unfollowed("moves elements in a way that is not followed")
    batch, channels, *sides = pixels.axes
    opened = operator.kind == "DepthToSpace"
    moved = [
        (filled(axis, block) if opened else parted(axis, block)) if isinstance(axis, Axis) else None
        for axis in sides
    ]
    if isinstance(channels, int):
        channels = channels // block**2 if opened else channels * block**2
    return along(pixels, [batch, channels, *moved])


def _channels(operator: Operator, given: Axis | int | None) -> int | None:
    weight = operator.given(1)
    if isinstance(weight, Fixed):
        if weight.shape is None or len(weight.shape) < 2:
            return None
        if operator.kind == "Conv":
            return weight.shape[0]
        return weight.shape[1] * int(operator.attributes.get("group", 1))
    return given if isinstance(given, int) and not operator.given(1) else None


def _numbers(operator: Operator, name: str, count: int, default: int, least: int) -> Sequence[int]:
    held = [int(item) for item in operator.attributes.get(name) or [default] * count]
    if len(held) != count or not all(least <= item < _INFINITE for item in held):
        raise Unfollowed(f"has {name} of an unknown form")
    return held


def _pads(
    operator: Operator, spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Elements that are added at the beginning and the end of each axis."""
    count = len(spans)
    auto = operator.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        held = [0] * 2 * count if auto == "VALID" else operator.attributes.get("pads")
        held = [int(item) for item in held or [0] * 2 * count]
        if len(held) != 2 * count or not all(0 <= item < _INFINITE for item in held):
            raise Unfollowed("has pads of an unknown form")
        return list(zip(held[:count], held[count:], strict=True))
    if auto not in ("SAME_UPPER", "SAME_LOWER") or set(strides) != {1}:
        raise Unfollowed("lays its windows by the size of the picture")
    if operator.kind == "ConvTranspose":
        raise Unfollowed("lays its windows by the size of the picture")
    less, more = ([(span - 1) // 2 for span in spans], [span // 2 for span in spans])
    upper = auto == "SAME_UPPER"
    return list(zip(less, more, strict=True) if upper else zip(more, less, strict=True))
