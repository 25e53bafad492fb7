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
        fewest: fewest tiles that the runner takes at once; the last one is repeated.
    """

    def __init__(
        self, runner: Runner, sizes: TileSizes, scale: int, most: int | None, fewest: int = 1
    ) -> None:
        self._runner, self._sizes, self._scale = runner, sizes, scale
        self._most, self._fewest = most, fewest
        self._smaller: TileSizes | None = None
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
        if self._smaller is not None:
            height, width = tiles.shape[2:]
            layout = Layout(height, width, self._smaller)
            if len(layout.tiles) > 1:
                return np.stack([self._in_parts(layout, tile) for tile in tiles])
        try:
            return self._run(tiles)
        except (OutOfMemory, MemoryError) as error:
            self._shrink(tiles, error)
        return self.run(tiles)

    def _run(self, tiles: Pictures) -> Pictures:
        missing = max(self._fewest - len(tiles), 0)
        filled = np.concatenate([tiles, *[tiles[-1:]] * missing]) if missing else tiles
        return self._runner.run(filled)[: len(tiles)]

    def _in_parts(self, layout: Layout, tile: Pictures) -> Pictures:
        return join(layout, [self.run(part[None])[0] for part in layout.cut(tile)], self._scale)

    def _shrink(self, tiles: Pictures, error: Exception) -> None:
        """Take fewer tiles at once, or smaller ones from now on."""
        count, (height, width) = len(tiles), tiles.shape[2:]
        if count > self._fewest:
            self._most = max(count // 2, self._fewest)
            self.note = f"memory ran out: {self._most} tiles at once in place of {count}"
            return
        longest = (self._smaller or self._sizes).longest
        while longest >= max(height, width):
            longest //= 2
        smaller = replace(self._sizes, longest=longest)
        if (
            longest < max(_SMALLEST, 2 * self._sizes.overlap)
            or len(Layout(height, width, smaller).tiles) == 1
        ):
            where = error.where if isinstance(error, OutOfMemory) else ""
            fix = "Restore where more memory is free, or with smaller tiles (--tile)."
            raise OutOfMemory(f"ran out of memory with a tile of {width}x{height}", where, fix)
        self._smaller = smaller
        self.note = f"memory ran out: tiles of {longest} pixels in place of {self._sizes.longest}"
