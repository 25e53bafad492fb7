"""Arithmetic with the sizes of tensors, as graphs do it for Reshape and Resize."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from sls_deploy.receptive.axis import Axis, Size
from sls_deploy.receptive.values import Fixed, Item, Numbers, Operator, Pixels, Value

_KEEPING = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten")
_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_MOST = 64
"""Numbers that are followed; more are no sizes of a tensor."""


def sizes(operator: Operator) -> Value:
    """What a node makes of sizes, or the sizes that Shape gives; `Fixed` where it is unknown."""
    handler = _HANDLERS.get(operator.kind)
    found = handler(operator) if handler else None
    return found if found is not None and len(found.items) <= _MOST else Fixed(None)


def shape(operator: Operator) -> Value:
    """Shape of a tensor that hangs on the picture."""
    given = operator.given(0)
    if not isinstance(given, Pixels):
        return Fixed(None)
    items = tuple(axis.size if isinstance(axis, Axis) else axis for axis in given.axes)
    cut = slice(operator.attributes.get("start"), operator.attributes.get("end"))
    return Numbers(items[cut])


def _keeping(operator: Operator) -> Numbers | None:
    given = _numbers(operator.given(0))
    if given is None or operator.attributes.get("to", _WHOLE[0]) not in _WHOLE:
        return None
    if operator.kind == "Squeeze" and len(given.items) == 1:
        return Numbers(given.items, scalar=True)
    if operator.kind in ("Unsqueeze", "Reshape", "Flatten"):
        target = operator.given(1)
        if operator.kind == "Reshape" and isinstance(target, Fixed) and target.shape == (0,):
            return Numbers(given.items, scalar=True)
        return Numbers(given.items)
    return given


def _concat(operator: Operator) -> Numbers | None:
    parts = [_numbers(item) for item in operator.inputs]
    if any(part is None or part.scalar for part in parts):
        return None
    return Numbers(tuple(item for part in parts if part is not None for item in part.items))


def _gather(operator: Operator) -> Numbers | None:
    given, places = _numbers(operator.given(0)), operator.given(1)
    if given is None or not isinstance(places, Fixed) or places.array is None:
        return None
    picked = [int(place) for place in places.array.ravel()]
    count = len(given.items)
    if any(not -count <= place < count for place in picked):
        return None
    return Numbers(tuple(given.items[place] for place in picked), scalar=places.array.ndim == 0)


def _slice(operator: Operator) -> Numbers | None:
    given = _numbers(operator.given(0))
    bounds = [operator.numbers(name, at) for name, at in (("starts", 1), ("ends", 2))]
    steps = operator.numbers("steps", 4) or [1]
    if given is None or any(bound is None or len(bound) != 1 for bound in bounds) or steps != [1]:
        return None
    first, last = (bound[0] for bound in bounds if bound)
    return Numbers(given.items[first:last])


def _arithmetic(operator: Operator) -> Numbers | None:
    one, two = _numbers(operator.given(0)), _numbers(operator.given(1))
    if one is None or two is None:
        return None
    longest = max(len(one.items), len(two.items))
    if any(len(part.items) not in (1, longest) for part in (one, two)):
        return None
    pairs = zip(
        one.items * (longest // len(one.items)),
        two.items * (longest // len(two.items)),
        strict=True,
    )
    items = tuple(_combined(operator.kind, a, b) for a, b in pairs)
    return Numbers(items, scalar=one.scalar and two.scalar)


def _combined(kind: str, one: Item, two: Item) -> Item:
    if isinstance(one, int) and isinstance(two, Size) and kind in ("Add", "Mul"):
        one, two = two, one
    if one is None or not isinstance(two, int):
        return None
    if kind in ("Mul", "Div") and two < 1:
        return None
    if isinstance(one, int):
        known = {"Add": one + two, "Sub": one - two, "Mul": one * two}
        return known.get(kind, one // two if kind == "Div" and one >= 0 else None)
    steps: Mapping[str, Callable[[int], Size]] = {
        "Add": one.plus,
        "Sub": lambda number: one.plus(-number),
        "Mul": one.times,
        "Div": one.over,
    }
    return steps[kind](two)


def _numbers(value: Value | None) -> Numbers | None:
    """Sizes, or constants among them."""
    if isinstance(value, Numbers):
        return value
    if isinstance(value, Fixed) and value.array is not None and value.array.dtype.kind in "iu":
        return Numbers(tuple(int(item) for item in value.array.ravel()), value.array.ndim == 0)
    return None


_HANDLERS: Mapping[str, Callable[[Operator], Numbers | None]] = {
    **dict.fromkeys(_KEEPING, _keeping),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
}
