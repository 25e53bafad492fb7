"""Where a picture is cut into tiles, and how what comes out of them becomes one picture again.

A tile is restored with `margin` pixels around it that are given up, because a network sees less of
the picture there, and fades into its neighbours over `blend` pixels. Where an output pixel hangs on
no input further away than the margin, both sides of a fade are equal, and so is the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures
from sls_deploy.runtime.tiling import Cut, cuts, smallest_tile
from sls_deploy.sizes import padded_side

Pixels = NDArray[np.float32]
"""Part of a picture: CHW float32, RGB, 0..1."""


@dataclass(frozen=True)
class TileSizes:
    """How a picture of any size is to be cut."""

    longest: int
    """Longest side of a tile, margins included, input pixels."""
    margin: int
    """Pixels at each inner side of a tile that are given up."""
    blend: int
    """Pixels over which neighbours fade into each other."""
    multiple: int = 1
    """Pixels that the sides of tiles are multiples of."""
    grid: int = 1
    """Pixels that the places of tiles, and the sides of those that are cut, are multiples of."""
    least: tuple[int, int] = (1, 1)
    """Smallest height and width of a tile, pixels."""
    most: tuple[int, int] | None = None
    """Largest height and width that the network takes, pixels; None if there is no limit."""
    step: int = 1
    """Pixels that the sides of tiles are filled up to multiples of, so that there are few sizes."""

    @property
    def overlap(self) -> int:
        """Input pixels that neighbours share at least."""
        return 2 * self.margin + self.blend


@dataclass(frozen=True)
class Tile:
    """One tile of a picture."""

    down: Cut
    """Its rows."""
    across: Cut
    """Its columns."""


class Layout:
    """The tiles of one picture, row by row, all of one size.

    Args:
        height: of the picture, input pixels.
        width: of the picture, input pixels.
        sizes: how it is to be cut.
    """

    def __init__(self, height: int, width: int, sizes: TileSizes) -> None:
        self.height, self.width, self.sizes = height, width, sizes
        most = sizes.most or (sizes.longest, sizes.longest)
        self.rows = _cuts(height, sizes.least[0], most[0], sizes)
        self.columns = _cuts(width, sizes.least[1], most[1], sizes)
        self.tiles = [Tile(*places) for places in product(self.rows, self.columns)]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return (self.rows[0].stop, self.columns[0].stop)

    @property
    def margin(self) -> int | None:
        """Input pixels that are given up at each inner side of a tile, at least; None if there is
        no inner side."""
        found = [
            (left.stop - right.start - self.sizes.blend) // 2
            for places in (self.rows, self.columns)
            for left, right in pairwise(places)
        ]
        return max(min(found), 0) if found else None

    def fill(self, pixels: Pixels) -> Pixels:
        """A tile's pixels as far as the picture has them, filled up by reflection."""
        filled: Pixels = reflect(pixels[None], *self.size)[0]
        return filled

    def inside(self, tile: Tile) -> tuple[int, int, int, int]:
        """Top, left, height and width of what the picture has of a tile, input pixels."""
        top, left = tile.down.start, tile.across.start
        bottom, right = min(tile.down.stop, self.height), min(tile.across.stop, self.width)
        return top, left, bottom - top, right - left

    def cut(self, picture: Pixels) -> Pictures:
        """All tiles of a picture that lies in memory, NCHW."""
        parts = []
        for tile in self.tiles:
            top, left, height, width = self.inside(tile)
            parts.append(self.fill(picture[:, top : top + height, left : left + width]))
        return np.stack(parts)


@dataclass(frozen=True)
class Part:
    """Finished pixels of a restored picture."""

    top: int
    """First row, output pixels."""
    left: int
    """First column, output pixels."""
    pixels: Pixels
    """What stands there."""


class Blender:
    """Joins restored tiles, row by row; memory does not grow with the picture's height.

    Args:
        layout: where the tiles lie.
        scale: output pixels for one input pixel, along each side.
    """

    def __init__(self, layout: Layout, scale: int) -> None:
        self._layout, self._scale = layout, scale
        self._rows = _spans(layout.rows, layout.height, layout.sizes.blend, scale)
        self._columns = _spans(layout.columns, layout.width, layout.sizes.blend, scale)
        self._place = 0
        self._above: Pixels | None = None  # what the row of tiles above gives to this one
        self._below: Pixels | None = None
        self._before: Pixels | None = None  # what the tile before gives to this one

    def add(self, restored: Pixels) -> Part:
        """Take the next tile, in the layout's order.

        Args:
            restored: CHW, the tile's sides times the scale.

        Returns:
            The pixels that are finished by it.
        """
        row, column = divmod(self._place, len(self._columns))
        self._place += 1
        down, across = self._rows[row], self._columns[column]
        part = restored[:, down.source, across.source] * down.weights[:, None] * across.weights
        left, top = across.target.start, down.target.start
        if self._before is not None:
            part[:, :, : self._before.shape[2]] += self._before
        self._before = part[:, :, across.after :].copy() if across.fades else None
        part = part[:, :, : across.after]
        columns = slice(left, left + part.shape[2])
        if self._above is not None:
            part[:, : self._above.shape[1]] += self._above[:, :, columns]
        if down.fades:
            if self._below is None:
                width = self._layout.width * self._scale
                self._below = np.empty((len(part), down.fades, width), np.float32)
            self._below[:, :, columns] = part[:, down.after :]
            part = part[:, : down.after]
        if column == len(self._columns) - 1:
            self._above, self._below = self._below, None
        return Part(top, left, part)


def join(layout: Layout, restored: Sequence[Pixels], scale: int) -> Pixels:
    """The restored picture of all its tiles, CHW."""
    blender = Blender(layout, scale)
    shape = (len(restored[0]), layout.height * scale, layout.width * scale)
    output = np.empty(shape, np.float32)
    for tile in restored:
        part = blender.add(tile)
        _, height, width = part.pixels.shape
        output[:, part.top : part.top + height, part.left : part.left + width] = part.pixels
    return output


@dataclass(frozen=True)
class _Span:
    """What a tile gives along one side, output pixels."""

    source: slice
    """Its pixels that count."""
    target: slice
    """Where they stand in the picture."""
    weights: NDArray[np.float32]
    """Their weights: those of neighbours add up to 1."""
    after: int
    """First of them that the next tile finishes."""
    fades: int
    """How many the next tile finishes."""


def _spans(places: Sequence[Cut], side: int, blend: int, scale: int) -> list[_Span]:
    spans = []
    borders = [0, *(cut.last for cut in places[:-1]), side]
    overlaps = [left.stop - right.start for left, right in pairwise(places)]
    # Two fades of one tile do not meet, and each lies where both tiles have pixels.
    blend = max(0, min(blend, *overlaps, *(b - a for a, b in pairwise(borders))))
    for number, cut in enumerate(places):
        first, last = number == 0, number == len(places) - 1
        before, after = 0 if first else blend // 2, 0 if last else blend - blend // 2
        start = (cut.first - before) * scale
        stop = (min(cut.last, side) + after) * scale
        weights = np.ones(stop - start, np.float32)
        ramp = ((np.arange(blend * scale) + 0.5) / max(blend * scale, 1)).astype(np.float32)
        if not first:
            weights[: len(ramp)] = ramp
        fades = 0 if last else len(ramp)
        if fades:
            weights[-fades:] = 1 - ramp
        shift = cut.start * scale
        source = slice(start - shift, stop - shift)
        spans.append(_Span(source, slice(start, stop), weights, len(weights) - fades, fades))
    return spans


def _cuts(side: int, least: int, most: int, sizes: TileSizes) -> list[Cut]:
    """Tiles along one side; with too little room for margins these shrink, never the progress.

    Args:
        side: of the picture, pixels.
        least: shortest tile that the network takes, pixels.
        most: longest one.
        sizes: what else is asked for.
    """
    longest = max(min(sizes.longest, most), least)
    grid = math.lcm(sizes.grid, sizes.multiple)
    if longest // grid * grid < least:  # the network takes no tile of that grid
        grid = sizes.multiple
    tile = _filled(side, least, most, sizes)
    if tile > longest:
        longest = max(longest // grid * grid, least)
        cut = max(smallest_tile(side, longest, sizes.overlap, grid), least)
        tile = min(_filled(cut, least, most, sizes), max(longest, cut))
    return list(cuts(side, tile, min(sizes.overlap, tile // 2), grid))


def _filled(side: int, least: int, most: int, sizes: TileSizes) -> int:
    """The side of a tile that covers a side: a multiple, and of the step if there is room."""
    tile = padded_side(side, least, sizes.multiple)
    stepped = padded_side(tile, 1, math.lcm(sizes.multiple, sizes.step))
    return stepped if stepped <= most else tile


def batches(layout: Layout, size: int) -> Iterator[list[Tile]]:
    """Tiles in their order, up to `size` at a time."""
    for start in range(0, len(layout.tiles), size):
        yield layout.tiles[start : start + size]
