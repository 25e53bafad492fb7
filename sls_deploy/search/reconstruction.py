"""Pruned and corrected networks of one dense network, for any budget and source of ratios."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sls_deploy.config import SearchConfig
from sls_deploy.data.crops import CropSampler
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.models.narrow import select
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.search.allocate import allocate
from sls_deploy.search.budget import ROUNDING, above
from sls_deploy.search.candidates import candidates, least_cost
from sls_deploy.search.cost import CostModel, ExecutableCost, MacsCost, unit_costs
from sls_deploy.search.interiors import Interior, kept_channels, narrowed_interiors
from sls_deploy.search.layers import Layer
from sls_deploy.search.memory import RECONSTRUCTION, memory_for
from sls_deploy.search.processes import Processes
from sls_deploy.search.reconstruct import Choice, reconstruct, refit
from sls_deploy.search.recover import Recovery
from sls_deploy.search.regrowth import Regrowth
from sls_deploy.search.schedule import Plan
from sls_deploy.search.sensitivity import Sensitivity, measure_sensitivity
from sls_deploy.search.sls import SlsSearch, held_out_psnr
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.search.sums import Calibration
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.pattern import Pattern

_DRAWN = 4
"""Crops drawn for each one that is kept for calibration: those with the most texture."""
_FLAT = 1 / 255
"""Standard deviation under which a crop is of one colour."""
_NARROWEST = 8
_PASSES = 256
"""Backward passes that a sensitivity is estimated from: it is then right to about 9 %."""


@dataclass(frozen=True)
class Candidate:
    """A pruned and corrected network, not yet fine-tuned."""

    source: str
    """Where its ratios come from: 'allocated' or 'learnt'."""
    model: RestorationModel
    """The network."""
    units: dict[str, int]
    """Units kept by each prunable layer."""
    psnr: float
    """PSNR in dB over RGB on held-out crops."""

    def copy(self) -> RestorationModel:
        """A copy of the network, to try something on."""
        return copy.deepcopy(self.model)


class Reconstruction:
    """All that reconstruction of one network shares between budgets.

    Args:
        model: the dense network; it is not changed, but may be replaced by its like in another
            order of channels (`order_channels`).
        layers: its prunable layers.
        pattern: what their units are.
        cost: what a budget is a share of.
        sampler: crops to calibrate on.
        held_out: degraded and true crops to measure PSNR on.
        config: settings of the search.
        processes: those that share the crops; a single one if left out.
        graph: the network's operations on crops, if they were traced already.
    """

    def __init__(
        self,
        model: RestorationModel,
        layers: list[Layer],
        pattern: Pattern,
        cost: CostModel,
        sampler: CropSampler,
        held_out: tuple[Tensor, Tensor],
        config: SearchConfig,
        processes: Processes | None = None,
        graph: Trace | None = None,
    ) -> None:
        self.processes = processes or Processes()
        if graph is not None:
            self.graph = graph
        self.model, self.layers, self.pattern, self.cost = model, layers, pattern, cost
        self.sampler, self.held_out, self.config = sampler, held_out, config
        self.notes: list[str] = []
        self._measured: Sensitivity | None = None

    @cached_property
    def graph(self) -> Trace:
        """The operations of the dense network."""
        return trace(self.model, self.config.patch)

    @cached_property
    def calibration(self) -> Calibration:
        """The crops with the most texture of many: flat ones say little about the weights."""
        wanted = self.config.crops
        drawn = self.sampler.of_size(wanted * _DRAWN).batch(0)[0]
        texture = drawn.std((1, 2, 3))
        chosen = drawn[texture.argsort(descending=True, stable=True)[:wanted]]
        if float(texture.max()) < _FLAT:
            self.notes.append(
                "the photographs are of one colour: their Hessians are singular and only damped, "
                "so the correction of the weights means little"
            )
        share, memory = self.processes.share, self.config.memory * 2**20 // self.config.devices
        own = chosen[share[0] :: share[1]]
        work = Calibration(own, memory, self.processes.sum, share)
        work = work.within_memory(self.graph, self.model, len(chosen[:: share[1]]))
        if len(work.pictures) < len(own):
            self.notes.append(
                f"--memory {self.config.memory} holds {len(work.pictures)} of {len(own)} crops"
            )
        return work

    @cached_property
    def interiors(self) -> list[Interior]:
        """Channels that may be dropped."""
        names = [layer.name for layer in self.layers]
        return narrowed_interiors(self.graph, names, self.pattern, self.config.narrow)

    def check_reachable(self, budget: float) -> None:
        """Refuse a budget that even the sparsest and narrowest network exceeds.

        Raises:
            SlsError: says what can be reached, under each cost model.
        """
        least = {
            model.name: least_cost(
                self.layers, self.pattern, dict.fromkeys(self.interiors, self.config.narrow), model
            )
            for model in (self.cost, MacsCost(), ExecutableCost())
        }
        if budget < least[self.cost.name] - ROUNDING:
            others = ", ".join(f"{above(share):g} of {name}" for name, share in least.items())
            fix = "Ask for more, or use a pattern with a larger M."
            if self.cost.name != "macs":  # more than half of the weights off gain nothing there
                fix = f"Ask for {above(least[self.cost.name]):g} or more."
                if not self.pattern.binary:
                    fix = "Ask for more, or use pattern 2:4, which narrows blocks too."
            # A measured table lacks the narrower widths.
            narrower = self.config.narrow > _NARROWEST and not self.cost.measured
            if self.interiors and narrower:
                fix = f"Ask for more, or give --narrow {_NARROWEST}."
            what = f"{budget:g} is below what pattern {self.config.pattern} can reach ({others})"
            raise SlsError(what, "--budget", fix)

    def sensitivity(self, report: Report) -> Sensitivity:
        """What each change loses; measured once."""
        if self._measured is None:
            names = [layer.name for layer in self.layers]
            total = len(names) + _PASSES
            with memory_for("sensitivity", RECONSTRUCTION):
                self._measured = measure_sensitivity(
                    self.graph,
                    self.model,
                    names,
                    self.pattern,
                    self.interiors,
                    self.config.narrow or 1,
                    self.calibration,
                    _PASSES,
                    lambda done: report(Progress("sensitivity", done, total)),
                )
        return self._measured

    def allocated(self, budget: float, report: Report) -> Candidate:
        """Ratios and widths that together lose least, reconstructed.

        Raises:
            SlsError: no choice meets the budget.
        """
        sensitivity = self.sensitivity(report)
        parts = candidates(self.layers, self.pattern, sensitivity, self.cost)
        picked = allocate(parts, budget)
        if picked is None:
            what = f"{budget:g} cannot be met with pattern {self.config.pattern}"
            raise SlsError(what, "--budget", "Ask for a little more.")
        units = dict(unit for option in picked for unit in option.what.units)
        narrowed = tuple(
            (interior, sensitivity.channels[interior][:width].sort().values)
            for option in picked
            for interior, width in option.what.widths
            if width < interior.channels
        )
        return self.reconstructed("allocated", Choice(units, narrowed), report)

    def reconstructed(self, source: str, choice: Choice, report: Report) -> Candidate:
        """Prune as chosen, correct, and measure on the held-out crops."""
        names = list(choice.units)

        def tell(name: str) -> None:
            report(Progress(f"reconstruct {source}", names.index(name), len(names)))

        metric = self.sensitivity(report).metric
        with memory_for(f"reconstruct {source}", RECONSTRUCTION):
            weights = reconstruct(
                self.graph, self.model, self.pattern, choice, self.calibration, tell, metric
            )
        model = _with_weights(self.model, weights)
        model = self.processes.same(select(model, kept_channels(choice.narrowed)).eval())
        return Candidate(source, model, dict(choice.units), held_out_psnr(model, self.held_out))

    def learnt(self, budget: float, steps: int, report: Report) -> Candidate:
        """Ratios that the paper's search ends with after some steps, reconstructed."""
        search = self.search(budget, steps)
        search.run(lambda _: None, report)
        counts = search.network.table().detach().sum(1).int().tolist()
        units = {layer.name: n for layer, n in zip(self.layers, counts, strict=True)}
        return self.reconstructed("learnt", Choice(units), report)

    @cached_property
    def costs(self) -> Tensor:
        """Cost of each unit of each layer; see `unit_costs`."""
        return unit_costs(self.cost, self.layers, self.pattern)

    def network(self) -> SparseNetwork:
        """A copy of the dense network whose ratios can be learnt."""
        # Trained as it will run: statistics of normalisations stay, and dropout is off.
        model = copy.deepcopy(self.model).eval()
        return SparseNetwork(model, self.layers, self.pattern, costs=self.costs)

    def search(self, budget: float, steps: int) -> SlsSearch:
        """The paper's search from the dense network, all of it in search of ratios."""
        plan = Plan.of(self.config.model_copy(update={"search_share": 1.0}), steps)
        return SlsSearch(
            self.network(), self.sampler, self.held_out, self.config, budget, plan, self.processes
        )

    def masks(self, model: RestorationModel, units: Mapping[str, int]) -> dict[str, Tensor]:
        """What a network keeps of its pruned layers: 0 or 1, by parameter name.

        Args:
            model: the pruned network.
            units: units that each prunable layer keeps.
        """
        masks = {}
        for layer in self.layers:
            if units.get(layer.name, self.pattern.units) < self.pattern.units:
                weight = model.network.get_parameter(layer.parameter).detach()
                masks[layer.parameter] = (weight != 0).to(weight.dtype)
        return masks

    def recovery(
        self,
        model: RestorationModel,
        masks: Mapping[str, Tensor],
        steps: int,
        name: str,
        regrowth: Regrowth | None = None,
    ) -> Recovery:
        """Fine-tuning of a pruned network, taught by the dense one; see `Recovery`."""
        return Recovery(
            model=model,
            masks=masks,
            teacher=self.model,
            batches=lambda step: self.sampler.batch(step, self.processes.share),
            held_out=self.held_out,
            config=self.config,
            steps=steps,
            name=name,
            regrowth=regrowth,
            processes=self.processes,
            refit=self.refitted if self.config.method != "sls" else None,  # it needs no graph
        )

    def refitted(self, student: RestorationModel, masks: Mapping[str, Tensor]) -> RestorationModel:
        """A copy of a pruned network whose kept weights are corrected anew; see `refit`."""
        metric = self.sensitivity(silent).metric
        weights = refit(self.graph, self.model, student, masks, self.calibration, metric)
        return self.processes.same(_with_weights(student, weights))

    @property
    def least_learnt(self) -> float:
        """The lowest budget that ratios alone can reach."""
        return least_cost(self.layers, self.pattern, {}, self.cost)


@torch.no_grad()
def _with_weights(model: RestorationModel, weights: Mapping[str, Tensor]) -> RestorationModel:
    model = copy.deepcopy(model)
    for name, weight in weights.items():
        model.network.get_parameter(name).copy_(weight)
    return model
