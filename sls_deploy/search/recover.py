"""Fine-tuning of a pruned network: distillation, averaged weights, the best by held-out crops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
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
from sls_deploy.search.memory import TRAINING, memory_for
from sls_deploy.search.processes import Processes
from sls_deploy.search.regrowth import REGROWING, Regrowth, pull, through_masks
from sls_deploy.search.schedule import rate
from sls_deploy.search.sls import held_out_psnr

_EPOCHS = 40

Batches = Callable[[int], Batch]
"""Degraded and true crops of a step, float NCHW in 0..1."""
Refit = Callable[[RestorationModel, Mapping[str, Tensor]], RestorationModel]
"""Gives a copy of a pruned network with these masks, its weights reconstructed anew."""


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
        processes: those that train together; a single one on the CPU if left out.
        refit: reconstructs the averaged weights anew, `config.refits` times; what does not gain on
            the held-out crops is left.
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
        processes: Processes | None = None,
        refit: Refit | None = None,
    ) -> None:
        self.processes = processes or Processes()
        device = self.processes.device
        self.model = model.eval().to(device)  # as it will run, see `Reconstruction.network`
        self.teacher = teacher.eval()
        if device.type != "cpu":
            self.teacher = copy.deepcopy(teacher).to(device)
        self.masks = {key: mask.to(device) for key, mask in masks.items()}
        self.batches, self.held_out = batches, self.processes.place(held_out)
        self.config = config
        self.steps, self.name, self.regrowth = steps, name, regrowth
        self.epoch = max(1, steps // _EPOCHS)
        regrowing = REGROWING * steps if regrowth else 0
        self.settled = self.epoch * math.ceil(regrowing / self.epoch)
        self.refit, parts = refit, config.refits + 1
        between = (steps - self.settled) / parts / self.epoch
        self.refits = {
            self.settled + self.epoch * round(between * part) for part in range(1, parts)
        }
        """Steps at which the averaged weights are reconstructed anew."""
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.parameters = dict(model.network.named_parameters())
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.recover_rate)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        _prune(self.averaged, self.masks)
        if regrowth is None:
            _prune(model, self.masks)
        self.best = _cloned(self.averaged.network.state_dict())
        self.best_psnr = self._measure()

    def run(self, save: Callable[[Checkpoint], None], report: Report) -> float:
        """Train until the planned steps are done, then take the best weights.

        The best are those of all epochs' averaged weights and of the start; so the student never
        ends worse on the held-out crops than it came.

        Args:
            save: keeps the state; called at the start of every epoch and at the end, in the first
                process alone.
            report: receives loss and PSNR after every step.

        Returns:
            PSNR of the best weights on the held-out crops, dB over RGB.

        Raises:
            SlsError: the loss is not finite.
        """
        lack = memory_for(self.name, TRAINING)
        with lack, Feed(self.batches, self.step, self.steps) as feed:
            while self.step < self.steps:
                if self.step % self.epoch == 0:
                    self.processes.first(lambda: save(self.checkpoint()))
                    self.start_epoch()
                figures = self.train_step(feed.batch(self.step))
                last = self.history[-1]
                last["loss"] = figures["loss"]
                shown = {**figures, "psnr": last["psnr"], "waiting": feed.share}
                report(Progress(self.name, self.step, self.steps, shown))
        self.processes.first(lambda: save(self.checkpoint()))
        self.start_epoch()
        self.model.eval().network.load_state_dict(self.best)
        self.model.cpu()
        return self.best_psnr

    def start_epoch(self) -> None:
        """Measure the averaged weights, keep them if they are the best, and choose masks anew."""
        for own, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            own.copy_(buffer)
        psnr = self._measure()
        if self.refit and self.step in self.refits and not self._regrowing:
            psnr = self._refit(self.refit, psnr)
        if psnr > self.best_psnr:
            self.best, self.best_psnr = _cloned(self.averaged.network.state_dict()), psnr
        self.history.append({"step": self.step, "psnr": psnr, "best": self.best_psnr})
        if self.regrowth and self.step <= self.settled:
            self._choose_masks(self.regrowth)

    @torch.no_grad()
    def _refit(self, refit: Refit, psnr: float) -> float:
        """Take the averaged weights reconstructed, if they are better; returns the better PSNR."""
        student = copy.deepcopy(self.averaged).cpu()
        masks = {name: mask.cpu() for name, mask in self.masks.items()}
        refitted = refit(student, masks).to(self.processes.device)
        reached = held_out_psnr(refitted, self.held_out, self.processes)
        if reached <= psnr:
            return psnr
        for model in (self.averaged, self.model):
            model.load_state_dict(refitted.state_dict())
        return reached

    def _measure(self) -> float:
        return held_out_psnr(self.averaged, self.held_out, self.processes)

    def train_step(self, batch: Batch | None = None) -> dict[str, float]:
        """One step of Adam; returns the L1 loss to the truth.

        Args:
            batch: this process's crops; made here if left out.
        """
        loss = self.backward(batch or self.batches(self.step))
        if not self._regrowing:
            self._mask_gradients()
        self.optimiser.param_groups[0]["lr"] = self.config.recover_rate * rate(
            self.step, self.steps
        )
        self.processes.step(self.optimiser)
        self._average()
        self.step += 1
        return {"loss": loss}

    def backward(self, batch: Batch) -> float:
        """Gradients of the loss at the crops of a step; returns its part to the truth.

        Args:
            batch: this process's crops.
        """
        processes, parts = self.processes, self.config.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        pictures = zip(*(side.chunk(parts) for side in processes.place(batch)), strict=True)
        losses = torch.zeros(2, device=processes.device)
        for degraded, truth in pictures:
            total, loss = self._loss(degraded, truth)
            processes.backward(total / parts)
            losses += torch.stack([total.detach(), loss.detach()]) / parts
        value, loss_value = processes.mean(losses).tolist()
        if not math.isfinite(value):
            fix = "Give a lower --recover-rate."
            raise SlsError(f"the loss is {value} at step {self.step}", self.name, fix)
        processes.average(self.parameters.values())
        return float(loss_value)

    def _loss(self, degraded: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and its part to the truth."""
        with self.processes.autocast():
            restored = self._restore(degraded).float()
            total = loss = nn.functional.l1_loss(restored, truth)
            if self.config.distillation:
                with torch.no_grad():
                    taught = self.teacher(degraded).float()
                total = loss + self.config.distillation * nn.functional.l1_loss(restored, taught)
        if self._regrowing:
            total = total + pull(self.parameters, self.masks)
        return total, loss

    @property
    def _regrowing(self) -> bool:
        return self.step < self.settled

    def _restore(self, degraded: Tensor) -> Tensor:
        if not self._regrowing:
            return self.model(degraded)  # type: ignore[no-any-return]
        weights = through_masks(self.parameters, self.masks)
        through = {f"network.{name}": weight for name, weight in weights.items()}
        return functional_call(self.model, through, (degraded,))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _mask_gradients(self) -> None:
        """Pruned weights stay where they are."""
        for name, mask in self.masks.items():
            gradient = self.parameters[name].grad
            if gradient is not None:  # a network may keep gradients from a layer
                gradient.mul_(mask)

    @torch.no_grad()
    def _choose_masks(self, regrowth: Regrowth) -> None:
        """Keep the largest weights of each group; the last time the others become zero."""
        chosen = regrowth.masks(self.parameters)
        self.masks |= chosen
        if not self._regrowing:
            for name, mask in chosen.items():
                for moment in self.optimiser.state[self.parameters[name]].values():
                    if moment.shape == mask.shape:
                        moment.mul_(mask)
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
        facts = {
            "step": self.step,
            "best_psnr": self.best_psnr,
            "precision": self.processes.state(),
            "history": self.history,
        }
        return Checkpoint({**tensors, **optimiser_state(self.optimiser)}, facts)

    def load(self, state: Checkpoint) -> None:
        """Go on from a checkpoint of the same recovery."""
        self.model.network.load_state_dict(state.group("weights"))
        self.averaged.network.load_state_dict(state.group("average"))
        self.best = state.group("best")
        for name, mask in state.group("mask").items():
            self.masks[name] = mask.to(self.masks[name])
        load_optimiser_state(self.optimiser, state.tensors)
        self.processes.load_state(state.facts["precision"])
        self.step = state.facts["step"]
        self.best_psnr = state.facts["best_psnr"]
        self.history = list(state.facts["history"])


@torch.no_grad()
def _prune(model: RestorationModel, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        model.network.get_parameter(name).mul_(mask)


def _cloned(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}
