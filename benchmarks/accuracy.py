"""What pruning costs in dB: methods against each other on real networks and pictures.

Every cell of the table is one JSON file: a run does those that are not there yet, so that it can
be interrupted and spread over several sittings. See README.md beside this file.
"""

from __future__ import annotations

import copy
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from cells import METHODS
from figures import mean_psnr, milliseconds
from table import BUDGETS, SETS, make_table, read_records
from task import Task

from sls_deploy.config import Config, DataConfig, ModelConfig, SearchConfig
from sls_deploy.config_file import parse_section
from sls_deploy.errors import SlsError
from sls_deploy.files import write_json
from sls_deploy.models.model import RestorationModel
from sls_deploy.run import budget_name, versions
from sls_deploy.search.cost import ExecutableCost, MacsCost

NETWORKS = {
    "rlfn_s_x4": ("rlfn_s_x4.pth", 4),
    "rlfn_s_x2": ("rlfn_s_x2.pth", 2),
    "rfdn_x4": ("rfdn_aim_x4.pth", 4),
    "carn_m_x4": ("carn_m_x234.pth", 4),
}
"""Checkpoint and scale of each network, in the order in which they are run."""


@dataclass(frozen=True)
class Cell:
    """One entry of the table."""

    network: str
    """Of `NETWORKS`."""
    method: str
    """Of `METHODS`."""
    budget: float
    """Cost to reach, as a share of the prunable layers' dense cost."""
    seed: int
    """Of crops and flips."""

    @property
    def name(self) -> str:
        """Name of its file, without suffix."""
        return f"{self.network}-{self.method}-{budget_name(self.budget)}-s{self.seed}"


@dataclass(frozen=True)
class Settings:
    """What all cells of a folder of results share."""

    data: Path
    """Folder with `ckpt`, `train` and `bench`."""
    search: SearchConfig
    """Settings of the search that a method does not bring itself; above all steps or minutes."""
    bench_step: int = 1
    """1 measures on all pictures of B100, k on every k-th."""

    @property
    def shared(self) -> dict[str, Any]:
        """What cells must have alike to be compared."""
        search = self.search.model_dump(mode="json", include={"steps", "minutes", "batch", "patch"})
        return {**search, "bench_step": self.bench_step}


def list_cells(
    networks: tuple[str, ...],
    methods: tuple[str, ...],
    budgets: tuple[float, ...],
    seeds: tuple[int, ...],
) -> Iterator[Cell]:
    """The cells in the order in which they are worth having: networks, seeds, methods, budgets."""
    for network in sorted(networks, key=list(NETWORKS).index):
        yield Cell(network, "dense", 1.0, 0)
        for seed in sorted(seeds):
            for name in sorted({*methods} - {"dense"}, key=list(METHODS).index):
                only = METHODS[name].budget
                for budget in sorted(budgets, reverse=True) if only is None else (only,):
                    yield Cell(network, name, budget, seed)


def run_cells(
    cells: Iterator[Cell], settings: Settings, out: Path, tell: Callable[[str], None]
) -> None:
    """Do the cells that are not done yet; each is written whole or not at all.

    Args:
        cells: in order.
        settings: what they share.
        out: folder of results.
        tell: receives a line before and after each cell.

    Raises:
        SlsError: the folder holds cells with other settings, or data that cannot be used.
    """
    records = read_records(out)
    if any(record["settings"] != settings.shared for record in records):
        what = f"holds cells with other settings than {settings.shared}"
        raise SlsError(what, str(out), "Name another folder with --out.")
    for cell in cells:
        path = out / f"{cell.name}.json"
        if path.exists():
            continue
        tell(f"{cell.name} ...")
        record = compute(cell, settings)
        write_json(path, record)
        tell(record.get("failed") or f"  B100 {record['psnr']['B100']:.3f} dB")


def compute(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Prune, fine-tune and measure one cell.

    Raises:
        SlsError: data that cannot be used; a budget out of a method's reach is a result instead.
    """
    method = METHODS[cell.method]
    pruned = cell.method != "dense"
    search = {**settings.search.model_dump(), **method.settings, "seed": cell.seed}
    if pruned:
        search["budgets"] = (cell.budget,)
    checkpoint, scale = NETWORKS[cell.network]
    config = Config(
        model=ModelConfig(weights=settings.data / "ckpt" / checkpoint, scale=scale),
        data=DataConfig(photos=settings.data / "train"),
        search=parse_section(SearchConfig, search, cell.name),
    )
    facts = {
        **{key: getattr(cell, key) for key in ("network", "method", "budget", "seed")},
        "settings": settings.shared,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} used",
        "versions": versions(),
    }
    task = Task(config)
    try:
        outcome = method.prune(task)
    except SlsError as error:
        if error.where != "--budget":
            raise
        return {**facts, "failed": str(error)}
    minutes = (time.monotonic() - task.started) / 60
    model, refilled = outcome.model, None
    if outcome.refilled:
        refilled = copy.deepcopy(model)
        refilled.network.load_state_dict(outcome.refilled.state)

    def measure(network: RestorationModel) -> dict[str, float]:
        steps = {name: settings.bench_step if name == "B100" else 1 for name in SETS}
        return {
            name: mean_psnr(network, settings.data / "bench" / name, step)
            for name, step in steps.items()
        }

    return {
        **facts,
        "cost": outcome.share(task.layers, task.pattern, MacsCost()),
        "executable": outcome.share(task.layers, task.pattern, ExecutableCost()),
        "psnr": measure(model),
        "refilled": refilled and measure(refilled),
        "held_out": outcome.psnr,
        "candidates": {item["source"]: item["psnr"] for item in outcome.candidates},
        "steps": outcome.steps,
        "minutes": round(minutes, 2),
        "milliseconds": milliseconds([task.dense, model]) if pruned else None,
        "notes": list(outcome.notes),
    }


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="Folder with ckpt, train and bench.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
    networks: Annotated[str, typer.Option(help="Which, by comma.")] = ",".join(NETWORKS),
    methods: Annotated[str, typer.Option(help="Which, by comma.")] = ",".join(METHODS),
    budgets: Annotated[str, typer.Option(help="Of (a) to (d), by comma.")] = ",".join(
        map(str, BUDGETS)
    ),
    seeds: Annotated[str, typer.Option(help="By comma.")] = "0,1",
    minutes: Annotated[float | None, typer.Option(help="Of each cell, search included.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of fine-tuning, instead of minutes.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops in a step.")] = None,
    patch: Annotated[int | None, typer.Option(help="Side of a crop, in pixels.")] = None,
    bench_step: Annotated[int, typer.Option(min=1, help="Every k-th picture of B100.")] = 1,
) -> None:
    """Do the cells that are not done yet; 20 minutes each if nothing else is said."""
    if steps is None and minutes is None:
        minutes = 20
    given = {"steps": steps, "minutes": minutes, "batch": batch, "patch": patch}
    search = parse_section(SearchConfig, given, "the command line")
    cells = list_cells(
        _choose(networks, list(NETWORKS), "--networks"),
        _choose(methods, list(METHODS), "--methods"),
        tuple(_numbers(budgets, float, "--budgets")),
        tuple(_numbers(seeds, int, "--seeds")),
    )
    run_cells(cells, Settings(data.resolve(), search, bench_step), out, _tell)


@app.command()
def table(out: Annotated[Path, typer.Option(help="Folder of results.")]) -> None:
    """Print the table of the cells that are done."""
    _tell(make_table(read_records(out)))


def _tell(line: str) -> None:
    print(line, flush=True)


def _choose(text: str, known: list[str], flag: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in known]:
        raise SlsError(
            f"no such name: {', '.join(unknown)}", flag, f"There are {', '.join(known)}."
        )
    return names


def _numbers(text: str, kind: type[Any], flag: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise SlsError(f"{text} is no list of numbers", flag, "Such as 0.5,0.25.") from None


if __name__ == "__main__":
    try:
        app()
    except SlsError as error:
        sys.exit(f"error: {error}")
