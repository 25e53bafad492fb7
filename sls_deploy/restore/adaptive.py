"""The paper's adaptive inference: each tile goes to the network that it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from sls_deploy.adapt.adaptation import (
    ESTIMATOR,
    KEY,
    Adaptation,
    read_adaptation,
    read_calibration,
)
from sls_deploy.adapt.chooser import LEAST_SIDE, Chooser
from sls_deploy.adapt.skip import Skip
from sls_deploy.adapt.tradeoff import Found, weight_for_cost, weight_for_loss
from sls_deploy.config import RestoreConfig
from sls_deploy.errors import SlsError
from sls_deploy.restore.answers import Answer, shrinking
from sls_deploy.restore.memory import Shrinking
from sls_deploy.restore.networks import Network, open_network, tile_sizes
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.run import Run
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.runtime.tensorrt import EngineRunner

_AT_ONCE = 32
"""Tiles that are chosen for together, and then grouped by their networks."""


@dataclass(frozen=True)
class Target:
    """What adaptive inference is asked for: one of the two."""

    cost: float | None = None
    """Mean multiply-accumulates, as a share of the dense network's."""
    loss_db: float | None = None
    """Most PSNR to lose to the costliest network of the run, dB."""


class AdaptiveNetworks:
    """Every tile goes to the network with the least estimated error + weight * cost.

    Args:
        run: its budgets are exported and it was adapted.
        target: what to reach on the calibration tiles.
        options: backend, precision and sizes.

    Raises:
        SlsError: the run was not adapted, the target cannot be reached, or nothing of a budget can
            run here.
    """

    def __init__(self, run: Run, target: Target, options: RestoreConfig) -> None:
        adaptation = read_adaptation(run)
        self._found = _weight(run, adaptation, target)
        self.names = tuple(candidate.name for candidate in adaptation.candidates)
        self.costs = tuple(cost + adaptation.estimator_cost for cost in adaptation.costs)
        self.scale, self.frames = adaptation.scale, adaptation.frames
        self.at_once = max(options.batch, _AT_ONCE)
        with ExitStack() as held:
            estimator = open_estimator(run, options)
            held.callback(estimator.close)
            networks: list[Network | None] = []
            for candidate in adaptation.candidates:
                network = None
                if candidate.budget is not None:
                    network = open_network(run, candidate.budget, options)
                    held.callback(network.close)
                networks.append(network)
            opened = [network for network in networks if network is not None]
            if not opened:
                raise SlsError("has no network to choose", str(run.path), "Adapt it again.")
            self.sizes = _sizes(opened, adaptation, options)
            self.told = "; ".join(dict.fromkeys(network.told for network in opened))
            skip = Shrinking(Skip(self.scale, self.frames), self.sizes, self.scale, None)
            self._shrinking = [
                skip if network is None else shrinking(network, self.sizes) for network in networks
            ]
            self._chooser = Chooser(adaptation, estimator, self._found.weight)
            self._overlap = adaptation.overlap
            self._held = held.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """The weight of cost and what it reached, too; see `TileRestorer.notes`."""
        found = self._found
        weight = (
            f"weight of cost {found.weight:.3g}: on the calibration tiles a mean cost of "
            f"{found.cost:.3f} and a loss of {found.loss_db:.3f} dB"
        )
        return (*filter(None, (runner.note for runner in self._shrinking)), weight)

    def run(self, tiles: Pictures) -> Answer:
        """Restore tiles, those of one network together; see `TileRestorer.run`."""
        choices = self._chooser.choose(_inner(tiles, self._overlap))
        count, _, height, width = tiles.shape
        pixels = np.empty((count, 3, height * self.scale, width * self.scale), np.float32)
        for choice in np.unique(choices):
            chosen = choices == choice
            pixels[chosen] = self._shrinking[choice].run(tiles[chosen])
        return Answer(pixels, choices)

    def close(self) -> None:
        """Let go of estimator and networks."""
        self._held.close()


def open_estimator(run: Run, options: RestoreConfig) -> Runner:
    """Get the estimator ready: its engine where that can run here, else by ONNX Runtime.

    Args:
        run: an adapted run, see `read_adaptation`.
        options: backend.

    Raises:
        SlsError: nothing can run it here.
    """
    folder = run.path / KEY
    if options.backend != "onnxruntime":
        for plan in sorted(folder.glob("**/*.plan")):
            try:
                return EngineRunner(plan, "the estimator")
            except SlsError:
                continue  # ONNX Runtime takes a hundredth of the networks' time for it
    return OnnxRunner(folder / ESTIMATOR, "the estimator")


def _weight(run: Run, adaptation: Adaptation, target: Target) -> Found:
    calibration = read_calibration(run, adaptation)
    if target.cost is not None:
        return weight_for_cost(calibration, target.cost)
    if target.loss_db is not None:
        return weight_for_loss(calibration, target.loss_db)
    fix = "Give --target-cost 0.3 or --target-psnr-loss 0.05."
    raise SlsError("needs a target", "--adaptive", fix)


def _sizes(
    networks: Sequence[Network], adaptation: Adaptation, options: RestoreConfig
) -> TileSizes:
    """Tiles of the side that was adapted for, with their overlap; fades lie inside of it."""
    sizes, overlap = tile_sizes(networks, options), adaptation.overlap
    blend = min(options.blend, overlap)
    longest = adaptation.tile + 2 * overlap
    return replace(
        sizes, longest=min(longest, sizes.longest), margin=overlap - (blend + 1) // 2, blend=blend
    )


def _inner(tiles: Pictures, overlap: int) -> Pictures:
    """What is kept of tiles, as large as the estimator needs it."""
    height, width = tiles.shape[2:]
    if min(height, width) >= 2 * overlap + LEAST_SIDE:
        tiles = tiles[:, :, overlap : height - overlap, overlap : width - overlap]
    sides = (max(side, LEAST_SIDE) for side in tiles.shape[2:])
    return np.ascontiguousarray(reflect(tiles, *sides))
