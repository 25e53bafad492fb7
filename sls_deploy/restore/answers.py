"""What a tile is given to: one network, or the one that it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sls_deploy.config import RestoreConfig
from sls_deploy.restore.memory import Shrinking
from sls_deploy.restore.networks import Network, tile_sizes
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.runtime.runner import Pictures


@dataclass(frozen=True)
class Answer:
    """Restored tiles."""

    pixels: Pictures
    """NCHW, sides times the scale."""
    choices: NDArray[np.intp] | None = None
    """Place of the network that each went to among the names; None where there is one."""


class TileRestorer(Protocol):
    """Restores tiles of one size, many at a time."""

    names: tuple[str, ...]
    """Networks that a tile may go to."""
    costs: tuple[float, ...]
    """Multiply-accumulates of each as a share of the dense network's, the choice included."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    frames: int
    """Pictures that they take at once."""
    sizes: TileSizes
    """How pictures are cut."""
    at_once: int
    """Tiles that are worth giving together."""
    told: str
    """What runs them, and why nothing faster does."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of how tiles were restored, such as that memory ran out."""
        ...

    def run(self, tiles: Pictures) -> Answer:
        """Restore tiles, NCHW.

        Raises:
            SlsError: a network cannot; not even by smaller tiles, where memory ran out.
        """
        ...

    def close(self) -> None:
        """Let go of the networks."""
        ...


class OneNetwork:
    """All tiles go to one network.

    Args:
        network: which; it is closed with this one.
        options: sizes of tiles.
    """

    def __init__(self, network: Network, options: RestoreConfig) -> None:
        self.names: tuple[str, ...] = (f"budget {network.budget:g}",)
        self.costs: tuple[float, ...] = (network.graph.network_cost,)
        self.scale, self.frames = network.graph.scale, network.graph.frames
        self.sizes = tile_sizes([network], options)
        self.at_once = max(min(options.batch, network.most or options.batch), network.fewest)
        self.told = network.told
        self._network = network
        self._runner = shrinking(network, self.sizes)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `TileRestorer.notes`."""
        return tuple(filter(None, (self._network.runner.note, self._runner.note)))

    def run(self, tiles: Pictures) -> Answer:
        """Restore tiles; see `TileRestorer.run`."""
        return Answer(self._runner.run(tiles))

    def close(self) -> None:
        """Let go of the network."""
        self._network.close()


def shrinking(network: Network, sizes: TileSizes) -> Shrinking:
    """What runs a network's tiles, as many at once as it takes."""
    scale = network.graph.scale
    return Shrinking(network.runner, sizes, scale, network.most, network.fewest)
