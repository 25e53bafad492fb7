"""The command that users come for: pictures and video through a run's networks."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sls_deploy.config import RestoreConfig
from sls_deploy.errors import SlsError
from sls_deploy.files import disk_errors
from sls_deploy.process_memory import peak_mib
from sls_deploy.progress import Report, silent
from sls_deploy.restore.adaptive import AdaptiveNetworks, Target
from sls_deploy.restore.answers import OneNetwork, TileRestorer
from sls_deploy.restore.choice_map import ChoiceMap
from sls_deploy.restore.networks import open_network
from sls_deploy.restore.pipeline import Failed, Pipeline, Restored
from sls_deploy.restore.sources import Job, find_jobs
from sls_deploy.run import Run


@dataclass(frozen=True)
class RestoreResult:
    """What was restored, by what, and at which cost."""

    backend: str
    """What ran, and why nothing faster did."""
    restored: tuple[Restored, ...]
    """Files that were written."""
    skipped: tuple[str, ...]
    """Outputs that were there already."""
    failed: tuple[Failed, ...]
    """Files that could not be restored."""
    seconds: float
    """Wall time."""
    megapixels: float
    """Of all inputs that were restored, every frame counted."""
    peak_mib: int
    """Peak resident memory of the process, MiB."""
    tile: int
    """Longest side of a tile, input pixels."""
    margin: int
    """Input pixels at each inner side of a tile that were given up."""
    choices: dict[str, int]
    """How many tiles went to which network; empty without adaptive inference."""
    cost: float | None
    """Mean multiply-accumulates of a tile as a share of the dense network's, with the choice."""
    notes: tuple[str, ...]
    """What else is to be known, such as smaller tiles because memory ran out."""


def restore_files(
    run: Run,
    inputs: Sequence[str],
    out: Path,
    options: RestoreConfig,
    report: Report = silent,
    *,
    budget: float | None = None,
    adaptive: Target | None = None,
    choice_map: Path | None = None,
    overwrite: bool = False,
    listed: Iterable[str] = (),
) -> RestoreResult:
    """Restore pictures and videos by a budget's network, or by the one that each tile is worth.

    A file that cannot be restored is told in the result, and the others go on. Outputs that are
    there already are left alone.

    Args:
        run: holds the budget, exported, or is adapted.
        inputs: files, folders, patterns, or '-' for those of `listed`.
        out: folder for the outputs; folders below an input folder are made below it, too.
        options: backend, tiles and formats.
        report: receives a report after each group of tiles.
        budget: whose network restores; the largest exported one if left out.
        adaptive: what adaptive inference is to reach, in place of a budget.
        choice_map: folder for pictures of which network each tile went to.
        overwrite: whether to write outputs anew that are there.
        listed: paths, one by one.

    Raises:
        SlsError: there is nothing to restore, nothing of the budget can run here, or `out` cannot
            be written.
    """
    start = time.monotonic()
    if adaptive is not None and budget is not None:
        raise SlsError("means nothing beside --adaptive", "--budget", "Leave one of them out.")
    if choice_map is not None and adaptive is None:
        raise SlsError("needs --adaptive", "--choice-map", "Add it, or leave the map out.")
    jobs = find_jobs(inputs, out, options.format, listed, options.video_codec)
    todo, skipped = [], []
    for job in jobs:
        if not overwrite and os.path.isfile(job.target):  # noqa: PTH113 - any name will do
            skipped.append(str(job.target))
        else:
            todo.append(job)
    restorer = _restorer(run, options, budget, adaptive)
    map_of = partial(_map, choice_map, out, restorer.names)
    pipeline = Pipeline(restorer, options, report, map_of)
    try:
        _check_out(out)
        pipeline.run(todo)
        notes = list(restorer.notes)
    finally:
        restorer.close()
    restored, choices = tuple(pipeline.restored), Counter[str]()
    for one in restored:
        choices.update(one.choices)
    pixels = sum(one.height * one.width * one.frames for one in restored)
    wanted = restorer.sizes.margin
    if pipeline.margin < wanted:
        notes.append(f"tiles are too small for a margin of {wanted}: it was {pipeline.margin}")
    return RestoreResult(
        backend=restorer.told,
        restored=restored,
        skipped=tuple(skipped),
        failed=tuple(pipeline.failed),
        seconds=round(time.monotonic() - start, 2),
        megapixels=pixels / 1e6,
        peak_mib=peak_mib(),
        tile=restorer.sizes.longest,
        margin=pipeline.margin,
        choices=dict(choices),
        cost=_cost(restorer, choices),
        notes=tuple(notes),
    )


def _restorer(
    run: Run, options: RestoreConfig, budget: float | None, adaptive: Target | None
) -> TileRestorer:
    if adaptive is not None:
        return AdaptiveNetworks(run, adaptive, options)
    if budget is None:
        known = run.budgets("export")
        if not known:
            fix = "`sls-deploy export` does it."
            raise SlsError("nothing was exported yet", str(run.path), fix)
        budget = known[0]
    return OneNetwork(open_network(run, budget, options), options)


def _check_out(out: Path) -> None:
    """See that outputs can be written before any work is done.

    Raises:
        SlsError: they cannot.
    """
    if out.exists() and not out.is_dir():
        raise SlsError("is a file, not a folder", str(out), "Name a folder for the outputs.")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def _map(folder: Path | None, out: Path, names: Sequence[str], job: Job) -> ChoiceMap | None:
    if folder is None:
        return None
    below = job.target.relative_to(out)
    return ChoiceMap(folder / below.with_name(f"{below.name}.choices.png"), names)


def _cost(restorer: TileRestorer, choices: Counter[str]) -> float | None:
    """Mean cost of the tiles; all tiles of one call have one size."""
    if not choices:
        return restorer.costs[0] if len(restorer.costs) == 1 else None
    costs = dict(zip(restorer.names, restorer.costs, strict=True))
    return sum(costs[name] * count for name, count in choices.items()) / choices.total()
