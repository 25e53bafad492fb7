"""What one cell of the accuracy table starts from, and the fine-tuning that its methods share."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from sls_deploy.config import Config
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.progress import silent
from sls_deploy.search.cost import CostModel, cost_model
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.search.outcome import Outcome
from sls_deploy.search.photos import load_photos
from sls_deploy.search.reconstruction import Reconstruction
from sls_deploy.search.recover import Recovery
from sls_deploy.search.regrowth import Regrowth
from sls_deploy.search.schedule import ENDLESS, steps_within
from sls_deploy.sparsity.pattern import Pattern


@dataclass(frozen=True)
class Task:
    """What a method is given; the clock starts when it is made."""

    config: Config
    """All settings, with one budget."""
    started: float = field(default_factory=time.monotonic)
    """When the work began, in seconds of the monotonic clock."""

    @property
    def budget(self) -> float:
        """Cost to reach, as a share of the prunable layers' dense cost."""
        return self.config.search.budgets[0]

    @cached_property
    def dense(self) -> RestorationModel:
        """The dense network."""
        weights = self.config.model.weights
        assert weights is not None  # noqa: S101 - every cell names its checkpoint
        return load_model(weights, self.config.model)

    @cached_property
    def pattern(self) -> Pattern:
        """What pruning units are."""
        return Pattern.parse(self.config.search.pattern)

    @cached_property
    def layers(self) -> list[Layer]:
        """The prunable layers."""
        size = (self.config.search.patch, self.config.search.patch)
        layers = find_layers(self.dense, self.pattern, size)
        return [layer for layer in layers if layer.prunable]

    @cached_property
    def prices(self) -> CostModel:
        """What the budget is a share of."""
        return cost_model(self.config.search, self.config.build.opt_shape[2:])

    @cached_property
    def crops(self) -> tuple[CropSampler, tuple[Tensor, Tensor]]:
        """Crops to learn from, and those held out."""
        search, data = self.config.search, self.config.data
        photos, measured = load_photos(data, self.dense.description, search.patch)
        sampler = CropSampler(photos, search.patch, search.batch, search.seed)
        return sampler, held_out(measured, data.held_out, search.patch)

    def recovered(
        self,
        model: RestorationModel,
        units: Mapping[str, int],
        masks: Mapping[str, Tensor],
        regrowth: Regrowth | None = None,
    ) -> Outcome:
        """Fine-tune for the steps of the settings, or for what is left of their minutes.

        Args:
            model: the network; `masks` prune it.
            units: units that each prunable layer keeps.
            masks: 0 or 1, by parameter name.
            regrowth: lets pruned weights come back; None keeps the masks.
        """
        config = self.config.search
        work = Reconstruction(
            self.dense, self.layers, self.pattern, self.prices, *self.crops, config
        )

        def recovery(student: RestorationModel, steps: int) -> Recovery:
            return work.recovery(student, masks, steps, "recover", regrowth)

        steps = config.steps
        if config.minutes is not None:
            left = config.minutes - (time.monotonic() - self.started) / 60
            probe = recovery(copy.deepcopy(model), ENDLESS)
            steps = steps_within(config, left, probe.train_step, probe.start_epoch)
        done = recovery(model, steps)
        psnr = done.run(lambda _: None, silent)
        return Outcome(model, model.network.state_dict(), units, psnr, steps, done.history)
