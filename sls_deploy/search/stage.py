"""The search stage: from a dense checkpoint and photographs to sparse weights for each budget."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from sls_deploy._version import __version__
from sls_deploy.config import WITHOUT_EFFECT, Config
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file, hash_json, write_json
from sls_deploy.models.model import load_model
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.search.auto import search_by_reconstruction
from sls_deploy.search.budget import check_reachable
from sls_deploy.search.checkpoint import (
    IDENTITY,
    Checkpoint,
    newest_checkpoint,
    resume,
    save_checkpoint,
)
from sls_deploy.search.cost import CostModel, cost_model, dense_form, other_models
from sls_deploy.search.logs import TrainingLog
from sls_deploy.search.order import order_channels
from sls_deploy.search.outcome import RATIOS, Outcome
from sls_deploy.search.photos import load_photos
from sls_deploy.search.prepare import Prepared, prepare
from sls_deploy.search.processes import Processes
from sls_deploy.search.reconstruction import Reconstruction
from sls_deploy.search.refill import refill
from sls_deploy.search.results import BudgetResult, SearchResult
from sls_deploy.search.schedule import ENDLESS, Plan, steps_within
from sls_deploy.search.settings import claim, resolve
from sls_deploy.search.sls import SlsSearch, held_out_psnr, load_network
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ratios import PERMUTATION, read_permutation, read_ratios

_NO_INPUTS = {*WITHOUT_EFFECT, "budgets", "latency_table"}


def search_budgets(
    config: Config, out: Path, report: Report = silent, processes: Processes | None = None
) -> SearchResult:
    """Search every budget of the settings, highest first, each from the one before.

    Goes on where an interrupted search stopped; a budget whose result stands is skipped.

    Args:
        config: all settings; model, data and search are used, all are kept in the run.
        out: run folder.
        report: receives loss, cost and PSNR.
        processes: those that search together, launched here; as the settings say if left out.

    Raises:
        SlsError: weights, photographs or budgets that cannot be used, or a folder that holds
            another search.
    """
    processes = processes or Processes.of(config.search)
    pattern = Pattern.parse(config.search.pattern)
    model = load_model(_weights(config), config.model)
    photos, measured = load_photos(config.data, model.description, config.search.patch)
    found = prepare(model, config)
    config, model, layers = found.config, found.model, found.layers
    prices = cost_model(config.search, config.build.opt_shape[2:], model)
    for layer in layers:  # so that what was not measured is said before any work
        prices.price(layer, dense_form(layer))
    others = other_models(prices, config.search, config.build.opt_shape[2:], model)
    sampler = CropSampler(photos, config.search.patch, config.search.batch, config.search.seed)
    crops = held_out(measured, config.data.held_out, config.search.patch)
    work = Reconstruction(
        model,
        found.prunable,
        pattern,
        prices,
        sampler,
        crops,
        config.search,
        processes,
        found.graph,
    )
    work.notes += found.notes
    if config.search.method == "sls":
        check_reachable(config.search.budgets[-1], work.costs, config.search.pattern)
    else:
        work.check_reachable(config.search.budgets[-1])
    resolved = resolve(config, model.description)
    processes.launch()
    with ExitStack() as held:

        def take_folder() -> dict[str, Any]:
            run = Run.create(out)
            held.enter_context(run.locked())
            return claim(run, resolved).model_dump(mode="json", by_alias=True)

        resolved = Config.model_validate(processes.first(take_folder))
        files = list(dict.fromkeys([*photos.files, *measured.files]))
        stage = _Stage(Run(out), resolved, found, files, work, others, processes)
        budgets = tuple(stage.search(budget, report) for budget in resolved.search.budgets)
    skipped = tuple(photos.skipped)
    usable = {*photos.paths, *measured.paths} - {item.path for item in skipped}
    return SearchResult(out, model.description.name, budgets, prices.note, len(usable), skipped)


class _Stage:
    """The budgets of one search; each goes on from the network that the one before left."""

    def __init__(
        self,
        run: Run,
        config: Config,
        prepared: Prepared,
        photos: list[Path],
        work: Reconstruction,
        others: list[CostModel],
        processes: Processes,
    ) -> None:
        self.run, self.config, self.layers = run, config, prepared.layers
        self.work, self.processes = work, processes
        self.alignment = prepared.alignment
        self.permutes = prepared.graph is not None and config.search.permute
        self.order: dict[str, Any] | None = None
        self.pattern, self.prices, self.others = work.pattern, work.cost, others
        self.sampler, self.held_out = work.sampler, work.held_out
        self.dense_psnr = held_out_psnr(work.model, work.held_out)
        self.files = {_name(path, config): hash_file(path) for path in photos}

    @cached_property
    def network(self) -> SparseNetwork:
        """The one network whose ratios are learnt, through all budgets."""
        return self.work.network()

    def search(self, budget: float, report: Report) -> BudgetResult:
        """Search one budget, or take its unchanged result."""
        folder = self.run.folder("search", budget)
        inputs = self._inputs(budget)

        def work() -> Iterable[Path]:
            self.processes.broadcast(True)
            outcome = search()
            facts = {
                "alignment": self.alignment,
                "budget": budget,
                "method": self.config.search.method,
                "dense_sha256": inputs["weights"],
                "code_sha256": inputs["code"],
                "pattern": self.config.search.pattern,
                "dense_psnr": self.dense_psnr,
            }
            yield from outcome.write(
                folder, self.layers, self.pattern, self.prices, facts, self.others
            )
            (folder / PERMUTATION).unlink(missing_ok=True)  # of a search before this one
            if self.order is not None:
                yield write_json(folder / PERMUTATION, self.order)

        def search() -> Outcome:
            if self.permutes and self.order is None:
                folder = self.run.path / "search" / "checkpoint" / "order"
                self.order = order_channels(self.work, folder, self._order_identity(), report)
            if self.config.search.method == "sls":
                outcome = self._learn(budget, inputs, report)
            else:
                outcome = search_by_reconstruction(
                    self.work,
                    budget,
                    self._checkpoints(budget),
                    hash_json(inputs),
                    self._logs(budget),
                    report,
                )
            if not self.pattern.binary:
                outcome = refill(outcome, self.work, report)
            return outcome

        def first() -> bool:
            _, skipped = self.run.stage(key, inputs, work)
            if skipped:
                self.processes.broadcast(False)
            return skipped

        def others() -> None:
            if self.processes.broadcast(None):
                search()

        key = f"search/{budget_name(budget)}"
        skipped = self.processes.first(first, others)
        record = self.run.manifest[key]
        ratios = read_ratios(folder / RATIOS)
        return BudgetResult(
            budget=budget,
            **{key: ratios[key] for key in ("cost", "network_cost", "dense_psnr", "psnr", "steps")},
            refill=ratios.get("refill"),
            alignment=ratios.get("alignment"),
            permutation=read_permutation(folder),
            candidates=tuple(ratios["candidates"]),
            notes=tuple(ratios["notes"]),
            seconds=record.seconds,
            peak_mib=record.peak_mib,
            skipped=skipped,
        )

    def _inputs(self, budget: float) -> dict[str, Any]:
        config = self.config
        search = config.search.model_dump(mode="json", exclude=_NO_INPUTS)
        table = config.search.latency_table
        return {
            "version": __version__,
            "weights": hash_file(_weights(self.config)),
            "model": config.model.model_dump(mode="json", exclude={"weights"}),
            "code": code_hash(config.model.name),
            "photos": self.files,
            "data": config.data.model_dump(mode="json", exclude={"photos"}),
            "search": search,
            "prices": self.prices.note,
            "latency_table": table and hash_file(table),
            # Learnt budgets go on from one another, reconstructed ones do not.
            "budgets": [
                value
                for value in config.search.budgets
                if value >= budget and (value == budget or config.search.method == "sls")
            ],
        }

    def _order_identity(self) -> str:
        """Hash of what the order of channels depends on: all but the budgets."""
        inputs = self._inputs(self.config.search.budgets[0])
        return hash_json({key: inputs[key] for key in inputs if key != "budgets"})

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

    def _logs(self, budget: float) -> Path:
        return self.run.path / "search" / "logs" / budget_name(budget)

    def _new(self, budget: float, plan: Plan, network: SparseNetwork | None = None) -> SlsSearch:
        """The chosen method at its start, on the stage's network or on another."""
        network, config = network or self.network, self.config.search
        return SlsSearch(network, self.sampler, self.held_out, config, budget, plan, self.processes)

    def _steps(self, budget: float) -> int:
        """Steps of a budget: as set, or as many as fit into the minutes."""
        config = self.config.search
        if config.minutes is None:
            return config.steps
        probe = self._new(budget, Plan.of(config, ENDLESS), copy.deepcopy(self.network))
        fitting = steps_within(config, config.minutes, probe.train_step, probe.start_epoch)
        return int(self.processes.broadcast(fitting))

    def _save(self, state: Checkpoint, search: SlsSearch, inputs: dict[str, Any]) -> None:
        facts = {**state.facts, IDENTITY: hash_json(inputs), "steps": search.plan.steps}
        folder = self._checkpoints(search.budget)
        save_checkpoint(folder, search.step, Checkpoint(state.tensors, facts))

    def _learn(self, budget: float, inputs: dict[str, Any], report: Report) -> Outcome:
        """The paper's search, from where the budget before ended."""
        search = self._resumed(budget, inputs)
        with ExitStack() as opened:
            if self.config.search.tensorboard and self.processes.is_first:
                log = TrainingLog(self._logs(budget), search.step)
                search.log = opened.enter_context(log)
            search.run(lambda state: self._save(state, search, inputs), report)
        last, network = search.history[-1], self.network
        return Outcome(
            model=network.model,
            state=network.sparse_state(),
            units={
                layer.name: count for layer, count in zip(network.layers, last["kept"], strict=True)
            },
            psnr=last["psnr"],
            steps=search.plan.steps,
            history=search.history,
            notes=self.work.notes,
        )


def _weights(config: Config) -> Path:
    if config.model.weights is None:
        raise SlsError("no checkpoint was named", "--weights", "Give that of the dense network.")
    return config.model.weights


def _name(path: Path, config: Config) -> str:
    """A photograph's path below its folder: the same wherever the folder lies."""
    folder = config.data.photos
    return path.as_posix() if folder is None else path.resolve().relative_to(folder).as_posix()
