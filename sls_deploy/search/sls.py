"""The paper's search: ratios learnt end to end under a budget, then fine-tuning.

Oh et al., "Attentive Fine-Grained Structured Sparsity for Image Restoration", CVPR 2022. To
search in another way, write another file like this one and choose it in `stage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sls_deploy.config import SearchConfig
from sls_deploy.data.crops import CropSampler
from sls_deploy.data.feed import Batch, Feed
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report
from sls_deploy.run import budget_name
from sls_deploy.search.budget import ROUNDING, land
from sls_deploy.search.checkpoint import Checkpoint, load_optimiser_state, optimiser_state
from sls_deploy.search.logs import TrainingLog
from sls_deploy.search.memory import TRAINING, memory_for
from sls_deploy.search.processes import Processes
from sls_deploy.search.schedule import Plan, rate
from sls_deploy.search.sparse import SparseNetwork

_ANNEALED_EVERY = 2
_LEAST_RISE = 0.2
_ANNEALING = 1.2
"""Every two epochs, if dense over pruned cost rose by less than 0.2, the penalty grows by 1.2."""


class SlsSearch:
    """The search for one budget; it can stop after any epoch and go on to the same result.

    Args:
        network: the masked network, as the dense one or as the budget before left it.
        sampler: crops to learn from.
        held_out: degraded and true crops to measure PSNR on.
        config: settings of the search.
        budget: cost to reach, as a share of the prunable layers' dense cost.
        plan: lengths in steps.
        processes: those that train together; a single one on the CPU if left out.
        log: receives the figures of steps and epochs.
    """

    def __init__(
        self,
        network: SparseNetwork,
        sampler: CropSampler,
        held_out: tuple[Tensor, Tensor],
        config: SearchConfig,
        budget: float,
        plan: Plan,
        processes: Processes | None = None,
        log: TrainingLog | None = None,
    ) -> None:
        self.processes, self.log = processes or Processes(), log
        self.network, self.sampler = network.to(self.processes.device), sampler
        self.held_out = self.processes.place(held_out)
        self.config, self.budget, self.plan = config, budget, plan
        self.step = 0
        self.coefficient = 1.0
        self.saving = 1.0
        self.history: list[dict[str, Any]] = []
        network.thaw()
        network.rerank()  # on the device of the weights
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(network.model.parameters()), "lr": config.learning_rate},
                {"params": [network.scores], "lr": score_rate(network, budget, plan)},
            ]
        )

    def run(self, save: Callable[[Checkpoint], None], report: Report) -> None:
        """Search and fine-tune until the planned steps are done.

        Args:
            save: keeps the state; called at the start of every epoch and at the end, in the first
                process alone.
            report: receives loss, cost, PSNR and the share of the time in which steps waited for
                their crops, after every step.
        """
        name, steps = f"search {budget_name(self.budget)}", self.plan.steps
        with memory_for(name, TRAINING), Feed(self.crops, self.step, steps) as feed:
            while self.step < steps:
                if self.step % self.plan.epoch == 0:
                    self.processes.first(lambda: save(self.checkpoint()))
                    self.start_epoch()
                figures = self.train_step(feed.batch(self.step))
                last = self.history[-1]
                last["loss"] = figures["loss"]
                figures["waiting"] = feed.share
                if self.log:
                    rates = self.optimiser.param_groups
                    self.log.step(self.step, {**figures, "learning_rate": rates[0]["lr"]})
                shown = {**figures, "budget": self.budget, "psnr": last["psnr"]}
                report(Progress(name, self.step, steps, shown))
        self.processes.first(lambda: save(self.checkpoint()))
        self.start_epoch()

    def crops(self, step: int) -> Batch:
        """This process's share of the crops of a step."""
        return self.sampler.batch(step, self.processes.share)

    def start_epoch(self) -> None:
        """Rank the weights anew, measure, and raise the penalty if the cost hardly falls."""
        network = self.network
        network.rerank()
        cost = float(network.cost(network.table().detach()))
        epoch = self.step // self.plan.epoch
        if network.frozen is None and epoch % _ANNEALED_EVERY == 0:
            if epoch and 1 / cost - self.saving < _LEAST_RISE:
                self.coefficient *= _ANNEALING
            self.saving = 1 / cost
        self.history.append(
            {
                "step": self.step,
                "cost": cost,
                "psnr": held_out_psnr(network, self.held_out, self.processes),
                "coefficient": self.coefficient,
                "frozen": network.frozen is not None,
                "kept": network.table().detach().sum(1).int().tolist(),
            }
        )
        if self.log:
            last = self.history[-1]
            names = [layer.name for layer in network.layers]
            kept = [network.pattern.ratio(count)[0] for count in last["kept"]]
            self.log.epoch(self.step, last["psnr"], dict(zip(names, kept, strict=True)))

    def train_step(self, batch: Batch | None = None) -> dict[str, float]:
        """One step of Adam on the weights and, until the freeze, on the scores.

        Args:
            batch: this process's crops; made here if left out.
        """
        network, config = self.network, self.config
        self.optimiser.param_groups[0]["lr"] = config.learning_rate * rate(
            self.step, self.plan.steps
        )
        loss, cost = self.backward(batch or self.crops(self.step))
        if not math.isfinite(loss):
            fix = "Give a lower --learning-rate."
            raise SlsError(f"the loss is {loss} at step {self.step}", "the search", fix)
        self.processes.step(self.optimiser)
        self.step += 1
        if network.frozen is None:
            network.clamp_scores()
            reached = float(network.cost(network.table().detach())) <= self.budget + ROUNDING
            if reached or self.step >= self.plan.window:
                products, costs = network.products.cpu(), network.costs.cpu()
                counts = land(products, costs, self.budget, network.pattern.stride)
                network.freeze(counts.to(self.processes.device))
        return {"loss": loss, "cost": cost}

    def backward(self, batch: Batch) -> tuple[float, float]:
        """Gradients of L1 loss + penalty x cost; returns loss and cost of the whole batch.

        The scores, the table and the cost stay fp32 (or better) in every precision.

        Args:
            batch: this process's crops.
        """
        network, processes, parts = self.network, self.processes, self.config.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        degraded, truth = processes.place(batch)
        losses = torch.zeros((), device=processes.device)
        for crops, wanted in zip(degraded.chunk(parts), truth.chunk(parts), strict=True):
            # Each part has a table of its own: the graph behind it is gone after its backward pass.
            table = network.table()
            cost = network.cost(table)
            with processes.autocast():
                restored = network(crops, table)
            loss = torch.nn.functional.l1_loss(restored.float(), wanted)
            total = loss
            if network.frozen is None:
                total = loss + self.config.penalty * self.coefficient * cost.to(loss.dtype)
            processes.backward(total / parts)
            losses += loss.detach() / parts
        processes.average(
            parameter for group in self.optimiser.param_groups for parameter in group["params"]
        )
        return float(processes.mean(losses)), float(cost.detach())

    def checkpoint(self) -> Checkpoint:
        """State from which `load` goes on bit for bit (on a CPU)."""
        network = self.network
        tensors = {f"model.{key}": value for key, value in network.model.state_dict().items()}
        tensors["scores"] = network.scores.detach()
        if network.frozen is not None:
            tensors["frozen"] = network.frozen
        facts = {
            "step": self.step,
            "coefficient": self.coefficient,
            "saving": self.saving,
            "score_rate": self.optimiser.param_groups[1]["lr"],
            "precision": self.processes.state(),
            "history": self.history,
        }
        return Checkpoint({**tensors, **optimiser_state(self.optimiser)}, facts)

    def load(self, state: Checkpoint) -> None:
        """Go on from a checkpoint of the same search."""
        load_network(self.network, state)
        load_optimiser_state(self.optimiser, state.tensors)
        self.optimiser.param_groups[1]["lr"] = state.facts["score_rate"]
        self.processes.load_state(state.facts["precision"])
        self.step = state.facts["step"]
        self.coefficient = state.facts["coefficient"]
        self.saving = state.facts["saving"]
        self.history = list(state.facts["history"])
        if "frozen" in state.tensors:
            self.network.freeze(state.tensors["frozen"].to(self.processes.device))


def load_network(network: SparseNetwork, state: Checkpoint) -> None:
    """Take weights and scores from a checkpoint, of this budget or of the one before."""
    network.model.load_state_dict(state.group("model"))
    network.scores.data.copy_(state.tensors["scores"])
    network.rerank()


def score_rate(network: SparseNetwork, budget: float, plan: Plan) -> float:
    """Learning rate of the scores.

    Adam moves all scores at most at its rate. This one lets them fall from where they are to
    the uniform ratio of the budget in half of the window, so that they have as much again to
    differ; the authors' 1e-4 would need thousands of steps.
    """
    kept = max(1.0, budget * network.pattern.group - network.pattern.first + 1)
    distance = float(network.scores.detach().mean()) - math.pow(0.5, 1 / kept)
    return max(distance, 0.02) / max(1, plan.window // 2)


def held_out_psnr(
    network: torch.nn.Module, pair: tuple[Tensor, Tensor], processes: Processes | None = None
) -> float:
    """PSNR in dB over RGB of restored crops, clamped to 0..1.

    Args:
        network: restores NCHW pictures in 0..1.
        pair: degraded and true crops, the same in every process.
        processes: those that share the crops; each measures all of them if left out.
    """
    rank, world = processes.share if processes else (0, 1)
    degraded, truth = (pictures[rank::world] for pictures in pair)
    errors = torch.zeros((), dtype=torch.float64, device=truth.device)
    if len(degraded):
        with torch.no_grad():
            restored: Tensor = network(degraded)
            errors += (restored.clamp(0, 1) - truth).square().mean().double() * len(truth)
    error = float(processes.sum(errors) if processes else errors) / len(pair[1])
    return -10 * math.log10(max(error, 1e-12))
