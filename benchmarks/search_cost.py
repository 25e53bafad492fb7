"""What the learnt search costs beside dense training, and beside the paper's layer as it stands.

CARN x4 with fresh weights, on noise. Run it as `python benchmarks/search_cost.py` on a quiet
machine; `--help` lists the settings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from search_sides import SIDES, WARM_UP, Dense, Oracle, Ours, Setting
from torch import Tensor

from sls_deploy.engine.worker import peak_mib
from sls_deploy.search.checkpoint import Checkpoint, optimiser_state, save_checkpoint

MEMORY_STEPS = 4
STEP = "step over a dense step"
STEP_FROZEN = "step over a dense step, after the freeze"
MASKS = "masks and scores, ms a step"
MASKS_CHANGING = "masks and scores, ms a step, changing"
MASKS_FROZEN = "masks and scores, ms a step, after the freeze"
RSS = "peak RSS over dense"
RSS_MIB = "peak RSS, MiB"
STATE = "model's state over dense weights"
RESUME = "resume file over dense weights"
RANKING = "ranking the whole net, ms"
GOALS = {
    STEP: "1.03",
    STEP_FROZEN: "1.03",
    MASKS: "7",
    MASKS_CHANGING: "7",
    MASKS_FROZEN: "4",
    RSS: "1.03",
    RSS_MIB: "",
    STATE: "1.3",
    RESUME: "",
    RANKING: "40",
}
"""What is shown, with what is to be reached at n:32."""


def milliseconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def step_ratios(sides: dict[str, Dense], pairs: int) -> dict[str, list[float]]:
    """Time of a step over that of the dense step beside it: quartiles for each side."""
    for side in sides.values():
        for _ in range(WARM_UP):
            side.step()
    ratios: dict[str, list[float]] = {name: [] for name in sides if name != "dense"}
    for pair in range(pairs):
        # Every other pair in reverse, so that no side always runs first.
        names = list(sides)[:: 1 if pair % 2 else -1]
        times = {name: milliseconds(sides[name].step) for name in names}
        for name, values in ratios.items():
            values.append(times[name] / times["dense"])
    return {
        name: statistics.quantiles(values, n=4, method="inclusive")
        for name, values in ratios.items()
    }


class _Given(torch.autograd.Function):
    """A zero whose gradients are given: what the network behind the weights would send back."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *_weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *_grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


def masks_ms(side: Ours | Oracle, repeats: int, *, changing: bool = False) -> float:
    """Time of table, look-up, masking and cost, forward and backward, with given gradients."""
    used, _ = side.masks()
    gradients = [torch.randn_like(weight) for weight in used]
    scores = side.network.scores if isinstance(side, Ours) else side.scores

    def work() -> None:
        weights, cost = side.masks()
        total = _Given.apply(gradients, *weights) + cost  # type: ignore[no-untyped-call]
        total.backward()

    times = []
    for repeat in range(repeats):
        if changing:
            scores.data.fill_((0.97, 0.98)[repeat % 2])
        side.optimiser.zero_grad(set_to_none=True)
        scores.grad = None
        times.append(milliseconds(work))
    return statistics.median(times)


def memory_mib(side: str, processes: int) -> float:
    """Peak resident memory of a few steps: the median of processes of their own."""
    command = [sys.executable, *sys.argv, "--memory-of", side]
    return statistics.median(int(subprocess.check_output(command)) for _ in range(processes))


def resume_bytes(tensors: dict[str, Tensor]) -> int:
    """Size of a checkpoint on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return save_checkpoint(Path(folder), 0, Checkpoint(tensors, {})).stat().st_size


def measure(setting: Setting) -> dict[str, dict[str, Any]]:
    """All figures, by name and side; a list holds the quartiles."""
    dense, ours, oracle = Dense(setting), Ours(setting), Oracle(setting)
    frozen = Ours(setting, frozen=True)
    sides: dict[str, Dense] = {"dense": dense, "ours": ours, "frozen": frozen, "oracle": oracle}
    steps = step_ratios(sides, setting.pairs)
    mib = {name: memory_mib(name, setting.processes) for name in SIDES}
    repeats = setting.repeats
    weights = len(save(dense.model.state_dict()))
    moments = optimiser_state(dense.optimiser)
    rankings = [milliseconds(ours.network.rerank) for _ in range(repeats)]
    figures: dict[str, dict[str, Any]] = {
        STEP: {"ours": steps["ours"], "oracle": steps["oracle"]},
        STEP_FROZEN: {"ours": steps["frozen"]},
        MASKS: {"ours": masks_ms(ours, repeats), "oracle": masks_ms(oracle, repeats)},
        MASKS_CHANGING: {"ours": masks_ms(ours, repeats, changing=True)},
        RSS: {name: mib[name] / mib["dense"] for name in ("ours", "oracle")},
        RSS_MIB: mib,
        STATE: {
            "ours": len(save(ours.state())) / weights,
            "oracle": len(save(oracle.state())) / weights,
        },
        RESUME: {
            "dense": resume_bytes({**dense.model.state_dict(), **moments}) / weights,
            "ours": resume_bytes(ours.search.checkpoint().tensors) / weights,
        },
        RANKING: {"ours": statistics.median(rankings), "oracle": oracle.ranking_ms},
    }
    ours.freeze()
    oracle.freeze()
    return {
        **figures,
        MASKS_FROZEN: {"ours": masks_ms(ours, repeats), "oracle": masks_ms(oracle, repeats)},
    }


def show(setting: Setting, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table and how it came about."""
    print(f"{'':45} {'dense':>18} {'ours':>18} {'oracle':>18} {'to reach':>9}")
    for name, goal in GOALS.items():
        cells = [_cell(figures[name].get(side)) for side in ("dense", "ours", "oracle")]
        print(f"{name:45} {' '.join(f'{cell:>18}' for cell in cells)} {goal:>9}")
    print(f"""
CARN x4, {setting.features} channels, pattern {setting.pattern}, batch {setting.batch} of LR \
{setting.patch}x{setting.patch}; {setting.threads} threads on {os.cpu_count()} cores, torch \
{torch.__version__}. Goals are those of n:32 with 64 channels.
Steps: {setting.pairs} of every side in turns, with Adam; median of the ratios to the dense step of
the same turn [quartiles]. Masks and scores: table, masks and cost alone, forward and backward with
given gradients, median of {setting.repeats}; 'changing' looks up every mask anew. Peak RSS:
{MEMORY_STEPS} steps in a process of their own, median of {setting.processes}. State: weights and
scores, the oracle's also its masks, as the authors' checkpoints do; resume files also hold Adam's
moments. Ranking: median of {setting.repeats}; the oracle's is a plain loop in Python, once.""")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        low, middle, high = value
        return f"{middle:.3f} [{low:.3f}-{high:.3f}]"
    return "" if value is None else f"{value:.4g}"


def main() -> None:
    """Read the settings, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30, help="steps of every side (30)")
    parser.add_argument("--pattern", default="n:32", help="n:M (n:32)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pairs < 2:
        parser.error("--pairs must be 2 or more: quartiles are of two at least")
    features, batch, patch = (8, 1, 8) if given.tiny else (64, 4, 48)
    setting = Setting(given.pattern, features, batch, patch, given.pairs, given.threads)
    torch.set_num_threads(setting.threads)
    if given.memory_of:
        side = SIDES[given.memory_of](setting)
        for _ in range(MEMORY_STEPS):
            side.step()
        print(peak_mib())
        return
    figures = measure(setting)
    show(setting, figures)
    if given.json:
        facts = {**asdict(setting), "cores": os.cpu_count(), "torch": torch.__version__}
        given.json.write_text(json.dumps({"setting": facts, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
