"""A picture of which network each tile went to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sls_deploy.data.images import write_image
from sls_deploy.restore.tiles import Layout, Pixels, Tile

COLOURS = ((68, 1, 84), (49, 104, 142), (53, 183, 121), (253, 231, 37), (220, 80, 40))
"""RGB of the networks from the cheapest on: told apart by colour-blind readers, too."""
_LONGEST = 1600
"""Side of a map in pixels that it does not exceed by much."""
_SHARE = 0.55
"""Of the network's colour beside the picture's own light."""


class ChoiceMap:
    """The input in grey, each tile tinted by the network that it went to; painted tile by tile.

    Args:
        path: where it is written.
        names: of the networks, from the cheapest on.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self._names = path, names
        self._step = 1
        self._map: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None

    def paint(self, layout: Layout, tile: Tile, pixels: Pixels, choice: int) -> None:
        """Paint one tile.

        Args:
            layout: of its picture.
            tile: which.
            pixels: its input, CHW RGB 0..1.
            choice: place of the network among the names.
        """
        if self._map is None:
            self._step = max(1, -(-max(layout.height, layout.width) // _LONGEST))
            sides = (-(-layout.height // self._step), -(-layout.width // self._step))
            self._map = np.zeros((*sides, 3), np.uint8)
        step = self._step
        rows, columns = (
            range(-(-cut.first // step) * step, min(cut.last, side), step)
            for cut, side in ((tile.down, layout.height), (tile.across, layout.width))
        )
        if not rows or not columns:
            return
        down = np.asarray(rows) - tile.down.start
        across = np.asarray(columns) - tile.across.start
        grey = pixels[:3][:, down][:, :, across].mean(axis=0)[..., None] * 255
        colour = np.asarray(COLOURS[choice % len(COLOURS)], np.float32)
        mixed = np.clip((1 - _SHARE) * grey + _SHARE * colour, 0, 255)
        self._map[
            rows[0] // step : rows[-1] // step + 1, columns[0] // step : columns[-1] // step + 1
        ] = mixed.round().astype(np.uint8)

    def write(self) -> Path:
        """Write it as a PNG, with a strip of the networks' colours below; returns the path.

        Raises:
            SlsError: the disk refuses.
        """
        assert self._map is not None  # noqa: S101 - a picture has a tile
        height, width = self._map.shape[:2]
        strip = np.zeros((max(4, height // 40), width, 3), np.uint8)
        for place in range(len(self._names)):
            first = width * place // len(self._names)
            strip[:, first:] = COLOURS[place % len(COLOURS)]
        return write_image(self.path, np.concatenate([self._map, strip]))
