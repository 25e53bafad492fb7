"""What values of a graph are to the question of which pixels they hang on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from sls_deploy.onnx_weights import shown
from sls_deploy.receptive.axis import Axis, Size


class Unfollowed(Exception):  # noqa: N818 - it is an answer, which no user sees
    """A value hangs on the whole picture, or nobody knows on what; says why."""


@dataclass(frozen=True)
class Fixed:
    """A value that hangs on no pixel."""

    shape: tuple[int, ...] | None
    """Its shape; None if the size of the picture may decide it."""
    array: NDArray[Any] | None = None
    """What it holds, or what it holds before it is converted to another type; None if unknown."""

    def integers(self) -> list[int]:
        """What it holds, as a flat list.

        Raises:
            Unfollowed: that is not known.
        """
        if self.array is None:
            raise Unfollowed("is given numbers that are computed")
        return [int(item) for item in self.array.ravel()]


Item = Size | int | None
"""A whole number: a size, a constant, or one that is not known."""


@dataclass(frozen=True)
class Numbers:
    """Whole numbers that are computed from the sizes of tensors."""

    items: tuple[Item, ...]
    """Each of them."""
    scalar: bool = False
    """Whether it is one number without an axis."""


@dataclass(frozen=True)
class Pixels:
    """A tensor that hangs on the picture."""

    axes: tuple[Axis | int | None, ...]
    """Each axis: one along which the picture lies, or the number of elements, None if unknown."""
    multiple: int = 1
    """Input pixels in which all elements on the way to it lie at the same places."""
    inexact: str = ""
    """Why a tile gives something else than the whole picture; empty if it does not."""

    def spatial(self, axis: int) -> bool:
        """Whether the picture lies along an axis."""
        return isinstance(self.axes[axis], Axis)


Value = Fixed | Numbers | Pixels | Unfollowed


class Operator:
    """A node with its attributes and what is known of its inputs.

    Args:
        node: the node.
        inputs: its inputs; None where one is left out.
    """

    def __init__(self, node: onnx.NodeProto, inputs: Sequence[Value | None]) -> None:
        self.kind, self.inputs = node.op_type, list(inputs)
        self.attributes: dict[str, Any] = {
            item.name: helper.get_attribute_value(item) for item in node.attribute
        }
        self._name = shown(node.name)

    def __str__(self) -> str:
        """As reasons name it, such as "Resize 'block_1.esa.Resize'"."""
        return f"{self.kind} '{self._name}'" if self._name else self.kind

    def given(self, place: int) -> Value | None:
        """An input; None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def pixels(self) -> Pixels:
        """The first input, where that alone may hang on pixels.

        Raises:
            Unfollowed: another one does, too.
        """
        first, *rest = self.inputs
        if not isinstance(first, Pixels) or any(isinstance(item, Pixels) for item in rest):
            raise Unfollowed("computes with several things that hang on pixels")
        return first

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Constant numbers, from an attribute as older opsets have it or from an input; or None."""
        if name in self.attributes:
            held = self.attributes[name]
            return [int(item) for item in (held if isinstance(held, Sequence) else [held])]
        value = self.given(place)
        if value is None:
            return None
        if not isinstance(value, Fixed):
            raise Unfollowed("cuts or moves by what hangs on the picture or on its size")
        return value.integers()

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        return bytes(self.attributes.get(name, default.encode())).decode(errors="replace")


def along(pixels: Pixels, axes: Sequence[Axis | int | None], inexact: str = "") -> Pixels:
    """What an operator makes of a tensor: other axes, on the grids of the tensor and their own."""
    grids = [axis.spacing.numerator for axis in axes if isinstance(axis, Axis)]
    return Pixels(tuple(axes), math.lcm(pixels.multiple, *grids), pixels.inexact or inexact)
