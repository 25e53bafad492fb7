"""Where the pixels of a restored picture are gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from sls_deploy.pictures.raster import Raster, Samples

_STRIP = 32
"""Rows that are rounded at once, so that they stay in the processor's cache."""


class Canvas:
    """Restored pixels of one picture, in memory or in a scratch file if large; a context manager.

    Args:
        height: pixels.
        width: pixels.
        channels: 1 for grey, 3 for RGB.
        bits: of a sample.
        folder: where the scratch file is made, best that of the output; made if it is not there.
        in_memory: bytes up to which no file is needed.

    Raises:
        SlsError: the disk has no room for it, or the folder cannot be written.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: Literal[1, 3],
        bits: Literal[8, 16],
        folder: Path,
        in_memory: int = 256 * 2**20,
    ) -> None:
        self.height, self.width, self.channels, self.bits = height, width, channels, bits
        self.raster = Raster(height, width, channels, bits, folder, in_memory)
        """The pixels, for who writes them into a file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the pixels; may be called twice."""
        self.raster.close()

    def put(self, top: int, left: int, pixels: NDArray[np.float32]) -> None:
        """Put a tile in its place.

        Args:
            top: row of its first pixel.
            left: column of its first pixel.
            pixels: CHW, three colours, 0..1, numbers all; what lies outside is clipped. Grey takes
                the mean of the colours.

        Raises:
            SlsError: the disk refuses.
        """
        height, width = pixels.shape[1:]
        highest = (1 << self.bits) - 1
        samples: Samples = np.empty((height, width, self.channels), self.raster.kind)
        for row in range(0, height, _STRIP):
            strip = pixels[:, row : row + _STRIP]
            if self.channels == 1:
                strip = strip.mean(0, keepdims=True)
            levels = strip * np.float32(highest)
            np.clip(np.rint(levels, out=levels), 0, highest, out=levels)
            samples[row : row + _STRIP].transpose(2, 0, 1)[...] = levels
        self.raster.write(top, left, samples)
