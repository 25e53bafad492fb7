"""The cells of the accuracy table: one dense network, pruned by one method to one budget.

A method is one function here. All of them get the same photographs, crops and steps or minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from task import Task

from sls_deploy.errors import SlsError
from sls_deploy.models.model import load_model
from sls_deploy.models.narrow import select
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run
from sls_deploy.search.budget import ROUNDING, above
from sls_deploy.search.candidates import price
from sls_deploy.search.cost import CostModel
from sls_deploy.search.interiors import Interior, find_interiors, kept_channels
from sls_deploy.search.layers import Layer
from sls_deploy.search.outcome import RATIOS, Outcome, Refilled
from sls_deploy.search.reconstruction import Reconstruction
from sls_deploy.search.regrowth import Regrowth
from sls_deploy.search.sensitivity import Sensitivity
from sls_deploy.search.sls import held_out_psnr
from sls_deploy.search.stage import search_budgets
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS, read_ratios


def unpruned(task: Task) -> Outcome:
    """The dense network as it is."""
    psnr = held_out_psnr(task.dense, task.crops[1])
    return Outcome(task.dense, task.dense.network.state_dict(), {}, psnr, steps=0)


def searched(task: Task) -> Outcome:
    """The search stage, by the method of the settings.

    Where steps are given, they are those of the fine-tuning: the paper's search gets as many again
    as it takes to find its ratios, and `auto` brings its own.
    """
    config = task.config
    if config.search.method == "sls":
        steps = round(config.search.steps / (1 - config.search.search_share))
        search = config.search.model_copy(update={"steps": steps})
        config = config.model_copy(update={"search": search})
    with TemporaryDirectory() as folder:
        search_budgets(config, Path(folder) / "run")
        found = Run.open(Path(folder) / "run").folder("search", task.budget)
        ratios, model = read_ratios(found / RATIOS), load_model(found / WEIGHTS)
        refilled = None
        if told := ratios.get("refill"):
            state = load_model(found / REFILLED).network.state_dict()
            units = dict.fromkeys(told["layers"], task.pattern.group // 2)
            refilled = Refilled(state, units, told["psnr"], told["steps"])
    group, first = task.pattern.group, task.pattern.first
    return Outcome(
        model=model,
        state=model.network.state_dict(),
        units={
            row["name"]: row["kept"] * group // row["of"] - first + 1
            for row in ratios["layers"]
            if row["prunable"]
        },
        psnr=ratios["psnr"],
        steps=ratios["steps"],
        candidates=ratios["candidates"],
        notes=ratios["notes"],
        refilled=refilled,
    )


def uniform(task: Task) -> Outcome:
    """The same N of M in every layer, the largest weights of each group, then fine-tuning.

    With `regrow` the masks follow the weights as in SR-STE (Zhou et al., ICLR 2021).
    """
    units = max(1, round(task.budget * task.pattern.group))
    masks = {}
    for layer in task.layers:
        weight = task.dense.network.get_parameter(f"{layer.name}.weight").detach()
        mask = rank_units(weight, task.pattern) < units
        masks[f"{layer.name}.weight"] = mask.to(weight.dtype)
    kept = {layer.name: units for layer in task.layers}
    regrowth = None
    if task.config.search.regrow:
        regrowth = Regrowth(task.pattern, dict.fromkeys(masks, units))
    return task.recovered(copy.deepcopy(task.dense), kept, masks, regrowth)


def filters_by_norm(task: Task) -> Outcome:
    """Interiors of blocks narrowed alike, to the filters of largest L1 norm, then fine-tuning.

    Raises:
        SlsError: interiors of four channels each still cost more than the budget.
    """
    names = [layer.name for layer in task.layers]
    # Channels of several producers are a residual stream: no method here narrows those.
    graph = trace(task.dense, task.config.search.patch)
    interiors = [item for item in find_interiors(graph, names) if len(item.producers) == 1]
    widths = even_widths(interiors, task.layers, task.pattern, task.prices, task.budget)
    kept = []
    for item, width in widths.items():
        weight = task.dense.network.get_parameter(f"{item.producers[0]}.weight").detach()
        norms = weight.abs().flatten(1).sum(1)
        kept.append((item, norms.argsort(descending=True)[:width].sort().values))
    model = select(task.dense, kept_channels(kept))
    return task.recovered(model, dict.fromkeys(names, task.pattern.units), {})


def filters_reconstructed(task: Task) -> Outcome:
    """Interiors of blocks narrowed by sensitivity and corrected, no 2:4, then fine-tuning.

    Raises:
        SlsError: the budget is below what narrowing alone can reach.
    """
    parts = (task.dense, task.layers, task.pattern, task.prices, *task.crops)
    found = _FiltersOnly(*parts, task.config.search).allocated(task.budget, silent)
    return task.recovered(found.model, found.units, {})


class _FiltersOnly(Reconstruction):
    """Reconstruction whose layers stay dense: only channels are dropped."""

    def sensitivity(self, report: Report) -> Sensitivity:
        """What narrowing loses."""
        measured = super().sensitivity(report)
        layers = {name: {self.pattern.units: 0.0} for name in measured.layers}
        return replace(measured, layers=layers)


def even_widths(
    interiors: list[Interior],
    layers: list[Layer],
    pattern: Pattern,
    prices: CostModel,
    budget: float,
) -> dict[Interior, int]:
    """Channels to keep of each interior: about the same share of all, in steps of four.

    The interior with the least share is widened as long as the budget allows it.

    Raises:
        SlsError: four channels each cost more than the budget.
    """

    def total(widths: dict[Interior, int]) -> float:
        return sum(price(prices, layer, pattern, pattern.units, widths) for layer in layers)

    most = (budget + ROUNDING) * total({})
    widths = {item: min(QUAD, item.channels) for item in interiors}
    if (least := total(widths)) > most:
        fix = f"Ask for {above(least / total({})):g} or more."
        raise SlsError(f"{budget:g} is below what narrowing can reach", "--budget", fix)
    growing = list(interiors)
    while growing:
        item = min(growing, key=lambda item: widths[item] / item.channels)
        wider = {**widths, item: min(widths[item] + QUAD, item.channels)}
        if wider == widths or total(wider) > most:
            growing.remove(item)
        else:
            widths = wider
    return widths


@dataclass(frozen=True)
class Method:
    """One way to prune."""

    label: str
    """What the table calls it."""
    prune: Callable[[Task], Outcome]
    """Does the work."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the search that it needs."""
    budget: float | None = None
    """Its only budget; None where it is measured at all of them."""


_N_16 = {"pattern": "n:16", "cost": "macs"}
_MAGNITUDE = {**_N_16, "distillation": 0}
_2_4 = {"pattern": "2:4", "cost": "executable"}

METHODS = {
    "dense": Method("dense", unpruned, _N_16, 1.0),
    "c": Method("reconstruct, no training", searched, {**_N_16, "method": "reconstruct"}),
    "d": Method("auto", searched, {**_N_16, "method": "auto"}),
    "b": Method("SLS of the paper", searched, {**_N_16, "method": "sls"}),
    "a": Method("magnitude, uniform N", uniform, _MAGNITUDE),
    "a2": Method("SR-STE, uniform N", uniform, {**_MAGNITUDE, "regrow": True}),
    "f": Method("narrowed + 2:4", searched, {**_2_4, "method": "auto"}, 0.28),
    "e": Method("all 2:4", searched, {"pattern": "2:4", "method": "auto", "narrow": 0}, 0.5),
    "g": Method("filters by magnitude", filters_by_norm, _2_4, 0.28),
    "h": Method("filters by reconstruction", filters_reconstructed, {**_2_4, "narrow": 8}, 0.28),
}
"""The methods, in the order in which they are run."""
