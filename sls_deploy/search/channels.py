"""Channels that belong together, by number: what is tied, where it lies, what may change places."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
"""Numbers of channels along an axis, one for each place."""


class Axis(NamedTuple):
    """One dimension that channels lie along."""

    name: str
    """Parameter by its key in the state dict; of a 'sum' the operation."""
    end: Literal["out", "in", "own", "sum"]
    """Of a layer's weight its filters ('out') or its input channels ('in'); 'own' of a parameter
    with a value for each channel; 'sum' of an operation that adds up or compares channels."""
    group: int = 0
    """Convolution group, for both ends of a layer."""


@dataclass(frozen=True)
class Place:
    """Where the channels of a stream lie along one axis."""

    axis: Axis
    """The axis."""
    at: Numbers
    """Positions, [channels, k]: each channel lies there k times, as in front of a pixel shuffle."""


@dataclass(frozen=True)
class Stream:
    """Channels that may change places with each other, if they do so everywhere at once."""

    places: tuple[Place, ...]
    """Every axis that they lie along."""

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.places[0].at)

    def ends(self, end: str) -> list[Place]:
        """Its places at one kind of end."""
        return [place for place in self.places if place.axis.end == end]


class Channels:
    """All channels of a network: numbers that are tied where operations work channel by channel."""

    def __init__(self) -> None:
        self._above: list[int] = []
        self._fixed: set[int] = set()
        self._forbidden: set[str] = set()
        self._axes: dict[Axis, Numbers] = {}

    def new(self, count: int) -> Numbers:
        """Numbers of new channels."""
        first = len(self._above)
        self._above.extend(range(first, first + count))
        return np.arange(first, first + count)

    def along(self, axis: Axis, count: int) -> Numbers:
        """Channels along an axis; new ones where it is seen for the first time."""
        if axis not in self._axes:
            self._axes[axis] = self.new(count)
        return self._axes[axis]

    def adds_up(self, operation: str, numbers: Numbers) -> None:
        """Note an operation that needs all of these channels, in whatever order."""
        self.tie(self.along(Axis(operation, "sum"), len(numbers)), numbers)

    def tie(self, first: Numbers, second: Numbers) -> None:
        """Let channels be the same ones, place by place."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self._above[self._find(one)] = self._find(other)

    def fix(self, numbers: Numbers) -> None:
        """Let channels stay where they are."""
        self._fixed.update(numbers.tolist())

    def forbid(self, parameter: str) -> None:
        """Let all channels along a parameter stay, whatever is still found of it."""
        self._forbidden.add(parameter)

    def streams(self) -> list[Stream]:
        """Every set of two or more channels that can change places, in order of first use.

        Channels can if they lie along the same axes, as often, and with the same steps between.
        """
        for axis, numbers in self._axes.items():
            if axis.name in self._forbidden:
                self.fix(numbers)
        fixed = {self._find(number) for number in self._fixed}
        places: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
        for axis, numbers in self._axes.items():
            for position, number in enumerate(numbers.tolist()):
                places[self._find(number)].append((axis, position))
        alike: dict[tuple[tuple[Axis, ...], tuple[int, ...]], list[list[int]]] = defaultdict(list)
        for root, found in places.items():
            if root not in fixed:
                axes = tuple(axis for axis, _ in found)
                steps = tuple(position - found[axes.index(axis)][1] for axis, position in found)
                alike[axes, steps].append([position for _, position in found])
        return [_stream(axes, np.array(rows)) for (axes, _), rows in alike.items() if len(rows) > 1]

    def _find(self, number: int) -> int:
        above = self._above
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number


def _stream(axes: tuple[Axis, ...], rows: Numbers) -> Stream:
    """A stream of channels, one row each, whose columns lie along these axes."""
    columns: dict[Axis, list[int]] = defaultdict(list)
    for column, axis in enumerate(axes):
        columns[axis].append(column)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Stream(tuple(Place(axis, rows[:, own]) for axis, own in columns.items()))
