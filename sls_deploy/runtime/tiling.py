"""Restores large pictures in overlapping tiles, so that the memory of a network stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import LayerTime, Pictures, Runner, Stopwatch, check_pictures
from sls_deploy.sizes import padded_side


class Tiled:
    """Cuts pictures into overlapping tiles of one size, and puts together what comes out.

    Of the pixels that two neighbours share, each gives the half that lies deeper in it. So the
    result is that of the whole picture where no pixel of the output hangs on input more than half
    of `overlap` away, and nearly so for most other networks. One that looks at the whole picture,
    such as DMPHN at its quarters, restores each tile as a picture of its own.

    With one number for `tile`, a picture of up to `tile * tile` pixels is passed on as it is, and a
    larger one is cut along each side longer than `tile`: into as few tiles as that takes, and those
    as small as possible. With two numbers every tile has exactly that height and width, as a graph
    of one size needs it, and a smaller picture is filled up by reflection.

    Args:
        runner: what restores the tiles; it is closed with this one.
        tile: longest side of a tile in input pixels, or height and width of every tile.
        overlap: input pixels that neighbours share at least; half of a tile's side at most.
        scale: output pixels for one input pixel, along each side.
        multiple: pixels that the places and the smaller of the tiles are multiples of, so that a
            network with strides sees the same grid in all of them. The picture is filled up for
            that by reflection, as by `Padded`.
        longest: longest side that the runner takes, in pixels: pictures with a longer one are cut
            whatever their size, and no tile is longer. None if there is no limit.
    """

    def __init__(
        self,
        runner: Runner,
        tile: int | tuple[int, int],
        overlap: int,
        scale: int,
        *,
        multiple: int = 1,
        longest: int | None = None,
    ) -> None:
        self.name = runner.name
        self._runner, self._tile, self._overlap, self._scale = runner, tile, overlap, scale
        self._multiple, self._longest = multiple, longest

    @property
    def note(self) -> str:
        """What the runner says of itself; see `Runner.note`."""
        return self._runner.note

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        pictures = check_pictures(pictures, self.name)
        height, width = (side * self._scale for side in pictures.shape[2:])
        output: Pictures | None = None
        for down, across, tile in self._tiles(pictures):
            restored = self._runner.run(tile)
            if tile is pictures:
                return restored
            if output is None:
                output = np.empty((*restored.shape[:2], height, width), np.float32)
            kept = output[:, :, down.target(self._scale), across.target(self._scale)]
            source = restored[:, :, down.source(self._scale), across.source(self._scale)]
            kept[...] = source[:, :, : kept.shape[2], : kept.shape[3]]  # none of what was filled up
        assert output is not None  # noqa: S101 - a picture has a tile
        return output

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch; see `Runner.stopwatch`. Cutting and joining are not in the time."""
        pictures = check_pictures(pictures, self.name)
        watches = [self._runner.stopwatch(tile) for _, _, tile in self._tiles(pictures)]
        return lambda: sum(watch() for watch in watches)

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        """Time each layer, over all tiles; see `Runner.profile`."""
        pictures = check_pictures(pictures, self.name)
        found = []
        for _, _, tile in self._tiles(pictures):
            layers = self._runner.profile(tile, repeats)
            if layers is None:
                return None
            found.append(layers)
        return tuple(
            replace(rows[0], ms=sum(row.ms for row in rows)) for rows in zip(*found, strict=True)
        )

    def close(self) -> None:
        """Let go of the runner."""
        self._runner.close()

    def _tiles(self, pictures: Pictures) -> Iterator[tuple[Cut, Cut, Pictures]]:
        """The tiles with their cuts down and across; the batch itself where it is left whole."""
        sides = pictures.shape[2:]
        if isinstance(self._tile, int):
            most = self._longest or max(sides)
            if sides[0] * sides[1] <= self._tile**2 and max(sides) <= most:
                sizes = list(sides)
            else:
                longest, overlap = min(self._tile, most), self._overlap
                sizes = [smallest_tile(side, longest, overlap, self._multiple) for side in sides]
        else:
            sizes = list(self._tile)
        rows, columns = (
            cuts(side, tile, self._overlap, self._multiple)
            for side, tile in zip(sides, sizes, strict=True)
        )
        filled = reflect(pictures, rows[-1].stop, columns[-1].stop)
        for down in rows:
            for across in columns:
                tile = filled[:, :, down.start : down.stop, across.start : across.stop]
                whole = tile.shape == pictures.shape
                yield down, across, pictures if whole else np.ascontiguousarray(tile)


@dataclass(frozen=True)
class Cut:
    """A tile along one side, in input pixels."""

    start: int
    """First pixel."""
    stop: int
    """Pixel after its last."""
    first: int
    """First pixel that it gives."""
    last: int
    """Pixel after the last that it gives."""

    def target(self, scale: int) -> slice:
        """Where it stands in the output."""
        return slice(self.first * scale, self.last * scale)

    def source(self, scale: int) -> slice:
        """Where it is taken from in the tile's output."""
        return slice((self.first - self.start) * scale, (self.last - self.start) * scale)


def smallest_tile(side: int, longest: int, overlap: int, multiple: int) -> int:
    """The smallest tile along a side that needs no more tiles than the longest one, in pixels.

    Args:
        side: of the picture, pixels.
        longest: tile that there may be.
        overlap: pixels that neighbours share at least; at most half of a tile.
        multiple: of which a tile that is shorter than `longest` is one.
    """
    if side <= longest:
        return side
    overlap = min(overlap, longest // 2)
    count = -(-(side - overlap) // (longest - overlap))
    least = -(-(side + (count - 1) * overlap) // count)
    # Not so small that half of it is less than the overlap.
    return min(padded_side(max(least, 2 * overlap), 1, multiple), longest)


def cuts(side: int, tile: int, overlap: int, multiple: int) -> list[Cut]:
    """Tiles of one size that cover a side, spread evenly; the last may end behind it.

    Args:
        side: of the picture, pixels.
        tile: of each tile.
        overlap: pixels that neighbours share at least; at most half of a tile.
        multiple: of which every start is one.
    """
    room = tile - min(overlap, tile // 2)
    if multiple > room:  # tiles on that grid would leave gaps
        multiple = 1
    step = room // multiple * multiple
    rest = padded_side(max(side - tile, 0), 0, multiple)
    count = -(-rest // step) + 1
    starts = [rest * place // max(count - 1, 1) // multiple * multiple for place in range(count)]
    borders = [0, *((left + tile + right) // 2 for left, right in pairwise(starts)), rest + tile]
    return [
        Cut(start, start + tile, first, last)
        for start, (first, last) in zip(starts, pairwise(borders), strict=True)
    ]
