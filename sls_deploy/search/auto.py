"""One budget by reconstruction: sources of ratios compete, the better one is fine-tuned.

Methods `reconstruct` (allocated ratios, no training) and `auto` (allocated against learnt ratios,
then recovery). The start of the recovery is kept on disk, so that an interrupted search goes on.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sls_deploy.files import write_json
from sls_deploy.models.model import RestorationModel, load_like, save_weights
from sls_deploy.progress import Progress, Report
from sls_deploy.run import budget_name
from sls_deploy.search.budget import ROUNDING
from sls_deploy.search.checkpoint import IDENTITY, Checkpoint, resume, save_checkpoint
from sls_deploy.search.logs import TrainingLog
from sls_deploy.search.outcome import Outcome
from sls_deploy.search.reconstruction import Candidate, Reconstruction
from sls_deploy.search.recover import Recovery
from sls_deploy.search.regrowth import Regrowth
from sls_deploy.search.schedule import ENDLESS, steps_within

_LEARNING_SHARE = 0.15
"""Share of a budget's steps or minutes in which ratios are learnt."""
_START = "start"


def search_by_reconstruction(
    work: Reconstruction, budget: float, folder: Path, identity: str, logs: Path, report: Report
) -> Outcome:
    """Search one budget; goes on where an interrupted search stopped.

    Args:
        work: what the budgets of a network share.
        budget: cost to reach, as a share of the prunable layers' dense cost.
        folder: where its checkpoints lie.
        identity: hash of everything that the search depends on.
        logs: folder of the TensorBoard logs, if the settings want them.
        report: receives the figures of every step.

    Raises:
        SlsError: the budget cannot be reached, or the network cannot be traced.
    """
    started, processes = time.monotonic(), work.processes
    start = processes.first(lambda: _read_start(folder, identity))
    if start is None:
        found, start = _compete(work, budget, started, report)

        def keep() -> None:
            # Nothing of another search may pass for what belongs to this start.
            (folder / _START / "start.json").unlink(missing_ok=True)
            for path in folder.glob("*.safetensors"):
                path.unlink()
            save_weights(folder / _START / "weights.safetensors", found)
            write_json(folder / _START / "start.json", {**start, IDENTITY: identity})

        processes.first(keep)
    model = load_like(folder / _START / "weights.safetensors", work.model)
    recovered: Recovery | None = None
    if start["steps"]:
        recovered = _recover(work, model, start, budget)
        if state := resume(folder, identity):
            recovered.load(state)

        if work.config.refits:
            work.sensitivity(report)  # from here on the photographs are the feed's

        def save(state: Checkpoint) -> None:
            facts = {**state.facts, IDENTITY: identity}
            save_checkpoint(folder, facts["step"], Checkpoint(state.tensors, facts))

        with ExitStack() as opened:
            if work.config.tensorboard and processes.is_first:
                log = opened.enter_context(TrainingLog(logs, recovered.step))
                kept = {name: work.pattern.ratio(n)[0] for name, n in start["units"].items()}
                log.epoch(recovered.step, recovered.best_psnr, kept)
                report = _logged(report, log)
            recovered.run(save, report)
    chosen = next(row for row in start["candidates"] if row["chosen"])
    return Outcome(
        model=model,
        state=model.network.state_dict(),
        units=start["units"],
        psnr=recovered.best_psnr if recovered else chosen["psnr"],
        steps=start["steps"],
        history=recovered.history if recovered else [],
        candidates=start["candidates"],
        notes=start["notes"],
        sensitivity=start["sensitivity"],
    )


def _logged(report: Report, log: TrainingLog) -> Report:
    def both(progress: Progress) -> None:
        log.step(progress.done, progress.figures)
        report(progress)

    return both


def _compete(
    work: Reconstruction, budget: float, started: float, report: Report
) -> tuple[RestorationModel, dict[str, Any]]:
    """The best candidate, and what is to be known of it."""
    config = work.config
    found = [work.allocated(budget, report)]
    if config.method == "auto" and budget > work.least_learnt + ROUNDING:
        found.append(work.learnt(budget, _learning_steps(work, budget), report))
    best = max(found, key=lambda candidate: candidate.psnr)
    steps = 0
    if config.method == "auto":
        steps = _recovery_steps(work, best, budget, time.monotonic() - started)
    rows = [
        {"source": item.source, "psnr": item.psnr, "units": item.units, "chosen": item is best}
        for item in found
    ]
    start = {
        "units": best.units,
        "candidates": rows,
        "notes": work.notes,
        "steps": steps,
        # JSON has no whole numbers for keys.
        "sensitivity": {
            name: {str(units): loss for units, loss in losses.items()}
            for name, losses in work.sensitivity(report).layers.items()
        },
    }
    return best.model, start


def _learning_steps(work: Reconstruction, budget: float) -> int:
    config = work.config
    if config.minutes is None:
        return max(1, round(_LEARNING_SHARE * config.steps))
    probe = work.search(budget, ENDLESS)
    minutes = config.minutes * _LEARNING_SHARE
    fitting = steps_within(config, minutes, probe.train_step, probe.start_epoch)
    return int(work.processes.broadcast(fitting))


def _recovery_steps(work: Reconstruction, best: Candidate, budget: float, spent: float) -> int:
    config = work.config
    if config.minutes is None:
        return config.steps
    left = float(work.processes.broadcast(config.minutes - spent / 60))
    if left <= 0:
        return 0
    start = {"units": best.units, "steps": ENDLESS}
    probe = _recover(work, best.copy(), start, budget)
    fitting = steps_within(config, left, probe.train_step, probe.start_epoch)
    return int(work.processes.broadcast(fitting))


def _recover(
    work: Reconstruction, model: RestorationModel, start: dict[str, Any], budget: float
) -> Recovery:
    masks = work.masks(model, start["units"])
    pruned = [layer for layer in work.layers if layer.parameter in masks]
    kept = {layer.parameter: start["units"][layer.name] for layer in pruned}
    layouts = {layer.parameter: layer.layout for layer in pruned}
    regrowth = Regrowth(work.pattern, kept, layouts) if work.config.regrow else None
    return work.recovery(model, masks, start["steps"], f"recover {budget_name(budget)}", regrowth)


def _read_start(folder: Path, identity: str) -> dict[str, Any] | None:
    path = folder / _START / "start.json"
    try:
        start: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    whole = {"units", "candidates", "notes", "steps", "sensitivity"} <= start.keys()
    return start if whole and start.get(IDENTITY) == identity else None
