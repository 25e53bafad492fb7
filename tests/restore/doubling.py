"""A restorer that repeats every pixel, to see what becomes of files without a network."""

from __future__ import annotations

import numpy as np

from sls_deploy.errors import SlsError
from sls_deploy.restore.answers import Answer
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.runtime.runner import Pictures


class Doubling:
    """Repeats every pixel; of several frames it takes the middle one.

    Args:
        sizes: how pictures are cut.
        frames: pictures that it takes at once.
        adaptive: whether it says that tiles go to the one network and to the other in turn.
    """

    names = ("skip", "b0.50")
    costs = (0.0, 0.5)
    scale = 2
    at_once = 4
    told = "by repeating"
    notes = ()

    def __init__(
        self, sizes: TileSizes | None = None, frames: int = 1, *, adaptive: bool = False
    ) -> None:
        self.sizes = sizes or TileSizes(32, 4, 4)
        self.frames, self.adaptive = frames, adaptive
        self.groups: list[tuple[int, ...]] = []
        self.refused = 0
        """How many groups fail, from the first on."""

    def run(self, tiles: Pictures) -> Answer:
        self.groups.append(tiles.shape)
        if len(self.groups) <= self.refused:
            raise SlsError("cannot", "the network", "Give up.")
        first = self.frames // 2 * 3
        pixels = tiles[:, first : first + 3].repeat(2, axis=2).repeat(2, axis=3)
        choices = np.arange(len(tiles)) % 2 if self.adaptive else None
        return Answer(pixels, choices)

    def close(self) -> None:
        pass
