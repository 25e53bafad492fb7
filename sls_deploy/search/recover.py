"""Fine-tuning of a pruned network: distillation, averaged weights, the best by held-out crops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sls_deploy.config import SearchConfig
from sls_deploy.data.feed import Batch, Feed
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.progress import Progress, Report
from sls_deploy.search.checkpoint import Checkpoint, load_optimiser_state, optimiser_state
from sls_deploy.search.schedule import rate
from sls_deploy.search.sls import held_out_psnr
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

_EPOCHS = 40
_REGROWING = 0.6
"""Share of the steps in which masks are chosen anew."""
_DECAY = 2e-4
"""Pull of pruned weights to zero while they may come back (SR-STE, Zhou et al., ICLR 2021)."""

Batches = Callable[[int], Batch]
"""Degraded and true crops of a step, float NCHW in 0..1."""


@dataclass(frozen=True)
class Regrowth:
    """How masks are chosen anew: the largest weights of each group, as many as before."""

    pattern: Pattern
    """What the units are."""
    units: Mapping[str, int]
    """Units kept, by parameter name; a mask without an entry stays."""


class Recovery:
    """Fine-tuning that can stop after any epoch and go on to the same result (bits, on a CPU).

    The loss is L1 to the truth and, by `config.distillation`, L1 to the dense network's output.
    Pruned weights stay exact zeros: they get no gradient, so that Adam never moves them. With
    `regrowth` they get one straight through the mask, and return where they outgrow kept ones;
    after 60 % of the steps the masks stay. (Zhou et al., ICLR 2021.)

    Args:
        model: the student. Pruned weights are set to zero; with `regrowth` they start from what
            they are, unseen by the forward pass.
        masks: 0 or 1, by parameter name in `model.network`.
        teacher: the dense network; it is not changed.
        batches: crops to learn from.
        held_out: degraded and true crops to measure PSNR on.
        config: settings of the search.
        steps: training steps.
        name: what progress is reported as.
        regrowth: lets pruned weights come back; None keeps the masks.
    """

    def __init__(
        self,
        model: RestorationModel,
        masks: Mapping[str, Tensor],
        teacher: RestorationModel,
        batches: Batches,
        held_out: tuple[Tensor, Tensor],
        config: SearchConfig,
        steps: int,
        name: str,
        regrowth: Regrowth | None = None,
    ) -> None:
        self.model, self.teacher = model.train(), teacher.eval()
        self.masks = dict(masks)
        self.batches, self.held_out, self.config = batches, held_out, config
        self.steps, self.name, self.regrowth = steps, name, regrowth
        self.epoch = max(1, steps // _EPOCHS)
        regrowing = _REGROWING * steps if regrowth else 0
        self.settled = self.epoch * math.ceil(regrowing / self.epoch)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.parameters = dict(model.network.named_parameters())
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.recover_rate)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        _prune(self.averaged, masks)
        if regrowth is None:
            _prune(model, masks)
        self.best = _cloned(self.averaged.network.state_dict())
        self.best_psnr = held_out_psnr(self.averaged, held_out)

    def run(self, save: Callable[[Checkpoint], None], report: Report) -> float:
        """Train until the planned steps are done, then take the best weights.

        The best are those of all epochs' averaged weights and of the start; so the student never
        ends worse on the held-out crops than it came.

        Args:
            save: keeps the state; called at the start of every epoch and at the end.
            report: receives loss and PSNR after every step.

        Returns:
            PSNR of the best weights on the held-out crops, dB over RGB.

        Raises:
            SlsError: the loss is not finite.
        """
        with Feed(self.batches, self.step, self.steps) as feed:
            while self.step < self.steps:
                if self.step % self.epoch == 0:
                    save(self.checkpoint())
                    self.start_epoch()
                figures = self.train_step(feed.batch(self.step))
                last = self.history[-1]
                last["loss"] = figures["loss"]
                shown = {**figures, "psnr": last["psnr"], "waiting": feed.share}
                report(Progress(self.name, self.step, self.steps, shown))
        save(self.checkpoint())
        self.start_epoch()
        self.model.eval().network.load_state_dict(self.best)
        return self.best_psnr

    def start_epoch(self) -> None:
        """Measure the averaged weights, keep them if they are the best, and choose masks anew."""
        for own, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            own.copy_(buffer)
        psnr = held_out_psnr(self.averaged, self.held_out)
        if psnr > self.best_psnr:
            self.best, self.best_psnr = _cloned(self.averaged.network.state_dict()), psnr
        self.history.append({"step": self.step, "psnr": psnr, "best": self.best_psnr})
        if self.regrowth and self.step <= self.settled:
            self._choose_masks(self.regrowth)

    def train_step(self, batch: Batch | None = None) -> dict[str, float]:
        """One step of Adam; returns the L1 loss to the truth.

        Args:
            batch: crops of the step; made here if left out.
        """
        loss = self.backward(batch or self.batches(self.step))
        self._mask_gradients()
        self.optimiser.param_groups[0]["lr"] = self.config.recover_rate * rate(
            self.step, self.steps
        )
        self.optimiser.step()
        self._average()
        self.step += 1
        return {"loss": loss}

    def backward(self, batch: Batch) -> float:
        """Gradients of the loss at a step's crops; returns its part to the truth."""
        degraded, truth = batch
        restored = self._restore(degraded)
        total = loss = nn.functional.l1_loss(restored, truth)
        if self.config.distillation:
            with torch.no_grad():
                taught = self.teacher(degraded)
            total = loss + self.config.distillation * nn.functional.l1_loss(restored, taught)
        value = float(total.detach())
        if not math.isfinite(value):
            fix = "Give a lower --recover-rate."
            raise SlsError(f"the loss is {value} at step {self.step}", self.name, fix)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @property
    def _regrowing(self) -> bool:
        return self.step < self.settled

    def _restore(self, degraded: Tensor) -> Tensor:
        if not self._regrowing:
            return self.model(degraded)  # type: ignore[no-any-return]
        through = {}
        for name, mask in self.masks.items():
            weight = self.parameters[name]
            # Forward the masked weight, backward as if there were no mask.
            through[f"network.{name}"] = weight - (weight * (1 - mask)).detach()
        return functional_call(self.model, through, (degraded,))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _mask_gradients(self) -> None:
        """Pruned weights stay where they are, or are pulled to zero while they may come back."""
        for name, mask in self.masks.items():
            weight = self.parameters[name]
            assert weight.grad is not None  # noqa: S101 - every prunable layer is used
            if self._regrowing:
                weight.grad.add_(weight * (1 - mask), alpha=_DECAY)
            else:
                weight.grad.mul_(mask)

    @torch.no_grad()
    def _choose_masks(self, regrowth: Regrowth) -> None:
        """Keep the largest weights of each group; the last time the others become zero."""
        for name, units in regrowth.units.items():
            weight = self.parameters[name]
            self.masks[name] = (rank_units(weight.cpu(), regrowth.pattern) < units).to(weight)
            if not self._regrowing:
                for moment in self.optimiser.state[weight].values():
                    if moment.shape == weight.shape:
                        moment.mul_(self.masks[name])
        _prune(self.averaged, self.masks)
        if not self._regrowing:
            _prune(self.model, self.masks)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights: fast at first, so that they soon forget the start."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, average in self.averaged.network.named_parameters():
            average.lerp_(self.parameters[name], 1 - decay)
        if self._regrowing:
            _prune(self.averaged, self.masks)

    def checkpoint(self) -> Checkpoint:
        """State from which `load` goes on bit for bit (on a CPU); it changes with the next step."""
        groups = {
            "weights": self.model.network.state_dict(),
            "average": self.averaged.network.state_dict(),
            "best": self.best,
            "mask": {name: mask.bool() for name, mask in self.masks.items()},
        }
        tensors = {
            f"{group}.{name}": value
            for group, values in groups.items()
            for name, value in values.items()
        }
        facts = {"step": self.step, "best_psnr": self.best_psnr, "history": self.history}
        return Checkpoint({**tensors, **optimiser_state(self.optimiser)}, facts)

    def load(self, state: Checkpoint) -> None:
        """Go on from a checkpoint of the same recovery."""
        self.model.network.load_state_dict(_group(state, "weights"))
        self.averaged.network.load_state_dict(_group(state, "average"))
        self.best = _group(state, "best")
        for name, mask in _group(state, "mask").items():
            self.masks[name] = mask.to(self.masks[name])
        load_optimiser_state(self.optimiser, state.tensors)
        self.step = state.facts["step"]
        self.best_psnr = state.facts["best_psnr"]
        self.history = list(state.facts["history"])


@torch.no_grad()
def _prune(model: RestorationModel, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        model.network.get_parameter(name).mul_(mask)


def _group(state: Checkpoint, group: str) -> dict[str, Tensor]:
    prefix = f"{group}."
    return {
        key.removeprefix(prefix): value
        for key, value in state.tensors.items()
        if key.startswith(prefix)
    }


def _cloned(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}
