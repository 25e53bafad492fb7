"""The search stage: from a dense checkpoint and photographs to sparse weights for each budget."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sls_deploy._version import __version__
from sls_deploy.config import Config
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.photos import Photos, Skipped
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file, hash_json, write_json
from sls_deploy.models.model import RestorationModel, load_model, save_weights
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.search.budget import check_reachable, unit_costs
from sls_deploy.search.checkpoint import (
    IDENTITY,
    Checkpoint,
    newest_checkpoint,
    resume,
    save_checkpoint,
)
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.search.photos import load_photos
from sls_deploy.search.schedule import Plan, steps_within
from sls_deploy.search.settings import claim, resolve
from sls_deploy.search.sls import SlsSearch, held_out_psnr, load_network
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ratios import read_ratios

WEIGHTS = "weights.safetensors"
RATIOS = "ratios.json"
HISTORY = "history.json"
METHODS = {"sls": SlsSearch}
"""What searches one budget, by `search.method`."""
_LONG = 10**6
"""Steps of a plan that never freezes while it is timed."""


@dataclass(frozen=True)
class BudgetResult:
    """What the search reached for one budget."""

    budget: float
    """Cost asked for, as a share of the prunable layers' dense cost."""
    cost: float
    """Cost reached; never above the budget."""
    network_cost: float
    """The same over all layers of the network, dense ones included."""
    dense_psnr: float
    """PSNR of the dense network on held-out crops, dB over RGB."""
    psnr: float
    """PSNR of the sparse network on the same crops."""
    steps: int
    """Training steps done."""
    seconds: float
    """Wall time."""
    peak_mib: int
    """Peak resident memory of the process, MiB."""
    skipped: bool
    """Whether an unchanged earlier result was taken."""


@dataclass(frozen=True)
class SearchResult:
    """What the search stage wrote."""

    run: Path
    """The run folder."""
    model: str
    """Network, as the registry calls it."""
    budgets: tuple[BudgetResult, ...]
    """Results, by descending budget."""
    photos: int
    """Photographs that can be used; a single one is learnt from and measured on."""
    skipped_photos: tuple[Skipped, ...]
    """Files left out, each with its reason."""


def search_budgets(config: Config, out: Path, report: Report = silent) -> SearchResult:
    """Search every budget of the settings, highest first, each from the one before.

    Goes on where an interrupted search stopped; a budget whose result stands is skipped.

    Args:
        config: all settings; model, data and search are used, all are kept in the run.
        out: run folder.
        report: receives loss, cost and PSNR.

    Raises:
        SlsError: weights, photographs or budgets that cannot be used, or a folder that holds
            another search.
    """
    pattern = Pattern.parse(config.search.pattern)
    model = load_model(_weights(config), config.model.name, config.model.scale)
    photos, measured = load_photos(config.data, model.description, config.search.patch)
    layers = find_layers(model.network, pattern, config.search.patch)
    costs = unit_costs([layer for layer in layers if layer.prunable], pattern)
    check_reachable(config.search.budgets[-1], costs, config.search.pattern)
    resolved = resolve(config, model.description)
    run = Run.create(out)
    with run.locked():
        resolved = claim(run, resolved)
        stage = _Stage(run, resolved, model, layers, pattern, (photos, measured))
        budgets = tuple(stage.search(budget, report) for budget in resolved.search.budgets)
    skipped = tuple(photos.skipped)
    usable = {*photos.paths, *measured.paths} - {item.path for item in skipped}
    return SearchResult(out, model.description.name, budgets, len(usable), skipped)


class _Stage:
    """The budgets of one search; each goes on from the network that the one before left."""

    def __init__(
        self,
        run: Run,
        config: Config,
        model: RestorationModel,
        layers: list[Layer],
        pattern: Pattern,
        pictures: tuple[Photos, Photos],
    ) -> None:
        self.run, self.config, self.layers = run, config, layers
        photos, measured = pictures
        self.sampler = CropSampler(
            photos, config.search.patch, config.search.batch, config.search.seed
        )
        self.held_out = held_out(measured, config.data.held_out, config.search.patch)
        self.dense_psnr = held_out_psnr(model, self.held_out)
        prunable = [layer for layer in layers if layer.prunable]
        self.network = SparseNetwork(model.train(), prunable, pattern)
        self.files = {
            _name(path, config): hash_file(path)
            for path in sorted({*photos.paths, *measured.paths})
        }

    def search(self, budget: float, report: Report) -> BudgetResult:
        """Search one budget, or take its unchanged result."""
        folder = self.run.folder("search", budget)
        inputs = self._inputs(budget)

        def work() -> Iterable[Path]:
            search = self._resumed(budget, inputs)
            search.run(lambda state: self._save(state, search, inputs), report)
            return self._write(folder, search)

        record, skipped = self.run.stage(f"search/{budget_name(budget)}", inputs, work)
        ratios = read_ratios(folder / RATIOS)
        return BudgetResult(
            budget=budget,
            **{key: ratios[key] for key in ("cost", "network_cost", "dense_psnr", "psnr", "steps")},
            seconds=record.seconds,
            peak_mib=record.peak_mib,
            skipped=skipped,
        )

    def _inputs(self, budget: float) -> dict[str, Any]:
        config = self.config
        search = config.search.model_dump(mode="json", exclude={"budgets"})
        return {
            "version": __version__,
            "weights": hash_file(_weights(self.config)),
            "model": config.model.model_dump(mode="json", exclude={"weights"}),
            "photos": self.files,
            "data": config.data.model_dump(mode="json", exclude={"photos"}),
            "search": search,
            "budgets": [value for value in config.search.budgets if value >= budget],
        }

    def _resumed(self, budget: float, inputs: dict[str, Any]) -> SlsSearch:
        """The search of a budget at its newest checkpoint, or at its start."""
        if state := resume(self._checkpoints(budget), hash_json(inputs)):
            search = self._new(budget, Plan.of(self.config.search, state.facts["steps"]))
            search.load(state)
            return search
        higher = [value for value in self.config.search.budgets if value > budget]
        if higher:
            folder = self._checkpoints(higher[-1])
            state = newest_checkpoint(folder)
            if not state or state.facts[IDENTITY] != hash_json(self._inputs(higher[-1])):
                fix = "Search all budgets into a new folder."
                what = f"the state after budget {higher[-1]:g} is missing"
                raise SlsError(what, str(folder), fix)
            load_network(self.network, state)
        return self._new(budget, Plan.of(self.config.search, self._steps(budget)))

    def _checkpoints(self, budget: float) -> Path:
        return self.run.path / "search" / "checkpoint" / budget_name(budget)

    def _new(self, budget: float, plan: Plan, network: SparseNetwork | None = None) -> SlsSearch:
        """The chosen method at its start, on the stage's network or on another."""
        config = self.config.search
        return METHODS[config.method](
            network or self.network, self.sampler, self.held_out, config, budget, plan
        )

    def _steps(self, budget: float) -> int:
        """Steps of a budget: as set, or as many as fit into the minutes."""
        config = self.config.search
        if config.minutes is None:
            return config.steps
        probe = self._new(budget, Plan.of(config, _LONG), copy.deepcopy(self.network))
        return steps_within(config, config.minutes, probe.train_step, probe.start_epoch)

    def _save(self, state: Checkpoint, search: SlsSearch, inputs: dict[str, Any]) -> None:
        facts = {**state.facts, IDENTITY: hash_json(inputs), "steps": search.plan.steps}
        folder = self._checkpoints(search.budget)
        save_checkpoint(folder, search.step, Checkpoint(state.tensors, facts))

    def _write(self, folder: Path, search: SlsSearch) -> Iterable[Path]:
        last = search.history[-1]
        state = self.network.sparse_state()
        pattern = self.network.pattern
        ratios_kept = {
            layer.name: pattern.ratio(count)
            for layer, count in zip(self.network.layers, last["kept"], strict=True)
        }
        dense_ratio = pattern.ratio(pattern.units)
        macs = sum(layer.macs for layer in self.layers)
        dense = sum(layer.macs for layer in self.layers if not layer.prunable)
        rows = [
            {
                **asdict(layer),
                "prunable": layer.prunable,
                "kept": ratios_kept.get(layer.name, dense_ratio)[0],
                "of": dense_ratio[1],
                "nonzero": round(float((state[f"{layer.name}.weight"] != 0).double().mean()), 6),
            }
            for layer in self.layers
        ]
        ratios = {
            "budget": search.budget,
            "dense_sha256": hash_file(_weights(self.config)),
            "pattern": self.config.search.pattern,
            "cost": last["cost"],
            "network_cost": (dense + last["cost"] * (macs - dense)) / macs,
            "macs_per_pixel": macs,
            "dense_psnr": self.dense_psnr,
            "psnr": last["psnr"],
            "steps": search.plan.steps,
            "layers": rows,
        }
        yield save_weights(folder / WEIGHTS, self.network.model, state)
        yield write_json(folder / RATIOS, ratios)
        yield write_json(
            folder / HISTORY,
            {"layers": [layer.name for layer in self.network.layers], "epochs": search.history},
        )


def _weights(config: Config) -> Path:
    if config.model.weights is None:
        raise SlsError("no checkpoint was named", "--weights", "Give that of the dense network.")
    return config.model.weights


def _name(path: Path, config: Config) -> str:
    """A photograph's path below its folder: the same wherever the folder lies."""
    folder = config.data.photos
    return path.as_posix() if folder is None else path.resolve().relative_to(folder).as_posix()
