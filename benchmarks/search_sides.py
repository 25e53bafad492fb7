"""The sides of `search_cost.py`: dense training, the search, and the oracle of the tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sls_deploy.config import SearchConfig
from sls_deploy.data.crops import CropSampler
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model
from sls_deploy.search.layers import find_layers
from sls_deploy.search.schedule import Plan
from sls_deploy.search.sls import SlsSearch
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.masks import keep_table
from sls_deploy.sparsity.pattern import Pattern

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.sparsity.oracle import pruning_units, sparse_weight

_RATE = 1e-4
WARM_UP = 3
"""Steps of every side that are not measured."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    pattern: str
    """Pattern n:M."""
    features: int
    """Channels of CARN; the paper's has 64."""
    batch: int
    """Crops in a step."""
    patch: int
    """Side of a crop before up-scaling, in pixels."""
    pairs: int
    """Steps of every side."""
    threads: int
    """Threads of PyTorch."""

    @property
    def repeats(self) -> int:
        """Measurements of what is not a step."""
        return max(2, self.pairs // 2)

    @property
    def processes(self) -> int:
        """Processes of every side whose peak memory is measured."""
        return min(3, max(1, self.pairs // 10))


class Crops:
    """Noise that costs no time to fetch; stands in for a `CropSampler`."""

    def __init__(self, setting: Setting) -> None:
        degraded, truth = (
            torch.rand(setting.batch, 3, side, side) for side in (setting.patch, 4 * setting.patch)
        )
        self.pair = degraded, truth

    def batch(self, step: int, _share: tuple[int, int] = (0, 1)) -> tuple[Tensor, Tensor]:
        """Input and truth, another part of the same noise at every step."""
        degraded, truth = self.pair
        return degraded.roll(step, -1), truth.roll(4 * step, -1)


class Dense:
    """Plain training."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        options = {"features": setting.features, "scale": 4}
        self.model = build_model(Description("carn", options, 4, 1.0)).train()
        self.crops = Crops(setting)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=_RATE)
        self.count = 0

    def step(self) -> None:
        """Forward, backward, Adam."""
        self.count += 1
        loss = self.loss(*self.crops.batch(self.count))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        float(loss.detach())

    def loss(self, degraded: Tensor, truth: Tensor) -> Tensor:
        """Loss at a batch."""
        return nn.functional.l1_loss(self.model(degraded), truth)


class Ours(Dense):
    """The search as the product runs it.

    The scores of all layers fall so fast that half of the units would go in twice as many steps
    as are measured: masks change at least as often as in a real search.
    """

    def __init__(self, setting: Setting, *, frozen: bool = False) -> None:
        super().__init__(setting)
        self.network = _sparse(self.model, setting)
        config = SearchConfig(method="sls", pattern=setting.pattern, learning_rate=_RATE)
        window = 4 * (setting.pairs + WARM_UP)
        plan = Plan(steps=10**6, window=window, epoch=10**6)
        crops = cast(CropSampler, self.crops)
        self.search = SlsSearch(self.network, crops, self.crops.pair, config, 0.25, plan)
        if frozen:
            self.freeze()

    def freeze(self) -> None:
        """Keep half of the units of every layer."""
        half = self.network.pattern.units // 2
        self.network.freeze(torch.full((len(self.network.layers),), half))

    def step(self) -> None:
        """A step of the search."""
        self.search.train_step()

    def masks(self) -> tuple[list[Tensor], Tensor]:
        """Weights that are used, and their cost."""
        table = self.network.table()
        return list(self.network.effective(table).values()), self.network.cost(table)

    def state(self) -> dict[str, Tensor]:
        """What makes up the model: weights and scores."""
        return self.network.state_dict()


class Oracle(Dense):
    """The paper's layer as its equations stand, with M stacked masks for every weight."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        network = _sparse(self.model, setting)
        self.names = [f"network.{layer.name}.weight" for layer in network.layers]
        self.weights, self.costs = network.weights, network.costs
        self.scores = nn.Parameter(network.scores.detach().clone())
        self.optimiser.add_param_group({"params": [self.scores]})
        size = network.pattern.group
        start = time.perf_counter()
        self.stacks = [pruning_units(w, size, quads_first=size > 4) for w in self.weights]
        self.ranking_ms = 1e3 * (time.perf_counter() - start)

    def freeze(self) -> None:
        """Keep the units that are kept now."""
        self.scores.requires_grad_(False)

    def masks(self) -> tuple[list[Tensor], Tensor]:
        """Weights that are used, and their cost."""
        parts = zip(self.weights, self.scores.unbind(), self.stacks, strict=True)
        return [sparse_weight(*part) for part in parts], (
            keep_table(self.scores).double() * self.costs
        ).sum()

    def loss(self, degraded: Tensor, truth: Tensor) -> Tensor:
        """Loss and penalty at a batch."""
        used, cost = self.masks()
        restored = functional_call(self.model, dict(zip(self.names, used, strict=True)), degraded)
        return nn.functional.l1_loss(restored, truth) + 0.02 * cost.float()

    def state(self) -> dict[str, Tensor]:
        """What makes up the model: weights, scores and masks."""
        stacks = {f"{i}": torch.stack(stack) for i, stack in enumerate(self.stacks)}
        return {**self.model.state_dict(), "scores": self.scores.detach(), **stacks}


SIDES: dict[str, Callable[[Setting], Dense]] = {"dense": Dense, "ours": Ours, "oracle": Oracle}


def _sparse(model: RestorationModel, setting: Setting) -> SparseNetwork:
    pattern = Pattern.parse(setting.pattern)
    layers = find_layers(model, pattern, (setting.patch, setting.patch))
    return SparseNetwork(model, [layer for layer in layers if layer.prunable], pattern)
