"""What the tiles of a run may be given to: its exported networks, and the skip path."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sls_deploy.adapt.adaptation import SKIP, Candidate
from sls_deploy.adapt.skip import Skip
from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.exported import ExportedGraph, graph_file, read_exported
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.runner import Runner
from sls_deploy.runtime.tiling import Tiled

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""In the order of choice. ONNX Runtime computes fp16 in fp32 on the CPU, and has no bf16."""
_SHARED = 16
"""Input pixels that tiles share where a graph takes one size only."""


@dataclass(frozen=True)
class Choice:
    """A candidate, and the graph that it is measured with."""

    candidate: Candidate
    """Name, budget and cost."""
    graph: ExportedGraph | None
    """The exported file; None for the skip path."""

    def open(self, scale: int, frames: int) -> Runner:
        """What restores pictures of any size by it, in one thread."""
        graph = self.graph
        if graph is None:
            return Skip(scale, frames)
        runner = OnnxRunner(graph.path, self.candidate.name, threads=1)
        if graph.fixed:
            shared = min(_SHARED, min(graph.fixed) // 2)
            return Tiled(runner, graph.fixed, shared, scale, multiple=graph.multiple)
        return Padded(runner, graph.least_side, graph.multiple, scale)


def find_choices(run: Run, *, skip: bool) -> list[Choice]:
    """The exported budgets of a run by ascending cost, and the skip path before them.

    Of budgets that cost the same, the larger one is left out: the refilled weights of one may be
    those of the other.

    Args:
        run: the run folder.
        skip: whether tiles may be skipped.

    Raises:
        SlsError: fewer than two candidates, or a budget's files are stale or were exported in no
            precision that can be measured here.
    """
    found = [_choice(run, budget) for budget in run.budgets("export")]
    found.sort(key=lambda choice: (choice.candidate.cost, choice.candidate.budget))
    chosen = [Choice(Candidate(SKIP, None, 0.0), None)] if skip else []
    chosen += found[:1]
    chosen += [b for a, b in pairwise(found) if b.candidate.cost > a.candidate.cost]
    if not found or len(chosen) < 2:
        what = f"has {len(chosen)} network to choose from, where two are needed"
        fix = "`sls-deploy search --budget 0.5,0.25`, then `sls-deploy export`, makes more."
        raise SlsError(what if found else "nothing was exported yet", str(run.path), fix)
    return chosen


def _choice(run: Run, budget: float) -> Choice:
    graph = read_exported(_file(run.require("export", budget), budget))
    return Choice(Candidate(budget_name(budget), budget, graph.network_cost), graph)


def _file(folder: Path, budget: float) -> Path:
    for precision in _PRECISIONS:
        path = graph_file(folder, precision)
        if path.is_file():
            return path
    fix = f"`sls-deploy export --budget {budget:g} --precision fp32,fp16` does it."
    raise SlsError("was not exported in a precision that can be measured", str(folder), fix)
