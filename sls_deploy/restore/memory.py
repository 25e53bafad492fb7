"""Goes on with smaller tiles where memory runs out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sls_deploy.errors import OutOfMemory
from sls_deploy.restore.tiles import Layout, TileSizes, join
from sls_deploy.runtime.runner import Pictures, Runner

_SMALLEST = 64
"""Side of a tile below which it is not made smaller, input pixels: margins would be most of it."""


class Shrinking:
    """Runs tiles, and halves them for good whenever memory runs out.

    A tile that is too large is cut like a picture, with the same margins, so the result is the
    same as far as the margins reach.

    Args:
        runner: what runs the tiles.
        sizes: how pictures are cut.
        scale: output pixels for one input pixel, along each side.
        most: most tiles at once; None if there is no limit.
    """

    def __init__(self, runner: Runner, sizes: TileSizes, scale: int, most: int | None) -> None:
        self._runner, self._sizes, self._scale = runner, sizes, scale
        self._most, self._longest = most, sizes.longest
        self.note = ""
        """What was made smaller and why; empty if nothing was."""

    def run(self, tiles: Pictures) -> Pictures:
        """Restore tiles, NCHW.

        Raises:
            OutOfMemory: not even the smallest tiles fit.
            SlsError: as the runner's `run` does.
        """
        most = self._most or len(tiles)
        if len(tiles) > most:
            parts = [self.run(tiles[start : start + most]) for start in range(0, len(tiles), most)]
            return np.concatenate(parts)
        if self._sizes.exact is None and max(tiles.shape[2:]) > self._longest:
            return np.stack([self._in_parts(tile) for tile in tiles])
        try:
            return self._runner.run(np.ascontiguousarray(tiles))
        except (OutOfMemory, MemoryError) as error:
            self._shrink(tiles, error)
        return self.run(tiles)

    def _in_parts(self, tile: Pictures) -> Pictures:
        height, width = tile.shape[1:]
        layout = Layout(height, width, replace(self._sizes, longest=self._longest))
        return join(layout, [self.run(part[None])[0] for part in layout.cut(tile)], self._scale)

    def _shrink(self, tiles: Pictures, error: Exception) -> None:
        """Take fewer tiles at once, or smaller ones from now on."""
        count, side = len(tiles), max(tiles.shape[2:])
        if count > 1:
            self._most = count // 2
            self.note = f"memory ran out: {self._most} tiles at once in place of {count}"
            return
        longest = self._longest
        while longest >= side:
            longest //= 2
        least = max(_SMALLEST, 2 * self._sizes.overlap, self._sizes.least)
        if self._sizes.exact is not None or longest < least:
            where = error.where if isinstance(error, OutOfMemory) else ""
            fix = "Restore where more memory is free, or with smaller tiles (--tile)."
            raise OutOfMemory(f"ran out of memory with a tile of {side} pixels", where, fix)
        self._longest = longest
        self.note = f"memory ran out: tiles of {longest} pixels in place of {self._sizes.longest}"
