from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sls_deploy.config import Config
from sls_deploy.errors import SlsError
from sls_deploy.models.model import load_model
from sls_deploy.progress import Progress
from sls_deploy.run import Run, hash_file
from sls_deploy.search.stage import search_budgets

WEIGHTS = "weights.safetensors"


def changed(config: Config, **search: object) -> Config:
    return config.model_copy(update={"search": config.search.model_copy(update=search)})


def test_budgets_are_reached_from_below_and_written(config: Config, tmp_path: Path) -> None:
    result = search_budgets(changed(config, budgets=(0.5, 0.3)), tmp_path / "run")
    assert [row.budget for row in result.budgets] == [0.5, 0.3]
    for row in result.budgets:
        assert row.budget - 0.05 < row.cost <= row.budget + 1e-6
        folder = Run.open(tmp_path / "run").folder("search", row.budget)
        ratios = json.loads((folder / "ratios.json").read_text())
        state = load_model(folder / WEIGHTS).network.state_dict()
        for layer in ratios["layers"]:
            weight = state[layer["name"] + ".weight"]
            assert layer["nonzero"] == pytest.approx((weight != 0).double().mean().item(), abs=1e-6)
            assert layer["prunable"] or layer["kept"] == layer["of"]
        kept = [
            row["kept"] / row["of"] * row["macs"] for row in ratios["layers"] if row["prunable"]
        ]
        macs = [row["macs"] for row in ratios["layers"] if row["prunable"]]
        assert sum(kept) / sum(macs) == pytest.approx(ratios["cost"], abs=1e-6)


def test_unchanged_search_is_skipped_and_a_lower_budget_added(
    config: Config, tmp_path: Path
) -> None:
    search_budgets(config, tmp_path / "run")
    before = hash_file(tmp_path / "run/search/b0.40" / WEIGHTS)
    again = search_budgets(config, tmp_path / "run")
    assert [row.skipped for row in again.budgets] == [True]
    lower = search_budgets(changed(config, budgets=(0.2,)), tmp_path / "run")
    assert [(row.budget, row.skipped) for row in lower.budgets] == [(0.4, True), (0.2, False)]
    assert hash_file(tmp_path / "run/search/b0.40" / WEIGHTS) == before
    at_once = search_budgets(changed(config, budgets=(0.4, 0.2)), tmp_path / "both")
    assert [row.cost for row in at_once.budgets] == [row.cost for row in lower.budgets]
    names = [f"search/b0.20/{WEIGHTS}", f"search/b0.40/{WEIGHTS}"]
    assert all(hash_file(tmp_path / "run" / n) == hash_file(tmp_path / "both" / n) for n in names)


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_interrupted_search_goes_on_to_the_same_bits(
    config: Config, tmp_path: Path, stop: int
) -> None:
    search_budgets(config, tmp_path / "whole")

    def interrupt(progress: Progress) -> None:
        if progress.done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_budgets(config, tmp_path / "cut", interrupt)
    search_budgets(config, tmp_path / "cut")
    for name in (WEIGHTS, "history.json", "ratios.json"):
        whole, cut = (tmp_path / run / "search/b0.40" / name for run in ("whole", "cut"))
        assert hash_file(whole) == hash_file(cut)


def test_killed_search_goes_on_to_the_same_bits(
    config: Config, tmp_path: Path, dense: Path, photos: Path
) -> None:
    command = [
        sys.executable, "-m", "sls_deploy.cli.main", "search", "--weights", str(dense),
        "--data", str(photos), "--pattern", "n:16", "--budget", "0.4", "--steps", "60",
        "--batch", "2", "--patch", "12", "--out",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cut, whole = str(tmp_path / "cut"), str(tmp_path / "whole")
    process = subprocess.Popen([*command, cut], env=environment, stderr=subprocess.DEVNULL)
    folder = tmp_path / "cut/search/checkpoint"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for path in (cut, whole):
        subprocess.run([*command, path], env=environment, check=True, capture_output=True)
    name = f"search/b0.40/{WEIGHTS}"
    assert hash_file(Path(cut) / name) == hash_file(Path(whole) / name)


def test_minutes_set_the_number_of_steps(config: Config, tmp_path: Path) -> None:
    (row,) = search_budgets(changed(config, minutes=0.04), tmp_path / "run").budgets
    assert row.steps != config.search.steps
    history = json.loads((tmp_path / "run/search/b0.40/history.json").read_text())["epochs"]
    assert history[-1]["step"] == row.steps


def test_folder_of_another_search_is_refused(config: Config, tmp_path: Path) -> None:
    search_budgets(config, tmp_path / "run")
    with pytest.raises(SlsError, match=r"search.steps = 12, not 13"):
        search_budgets(changed(config, steps=13), tmp_path / "run")
    with pytest.raises(SlsError, match="only lower ones can be added"):
        search_budgets(changed(config, budgets=(0.6,)), tmp_path / "run")


def test_budget_below_what_can_be_reached_says_what_can(config: Config, tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"0.05 is below .* n:16 .*Ask for 0.0625 or more"):
        search_budgets(changed(config, budgets=(0.05,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pruned_weights_return_only_by_reranking(config: Config, tmp_path: Path) -> None:
    """After the freeze every layer keeps its number of units to the end."""
    search_budgets(config, tmp_path / "run")
    history = json.loads((tmp_path / "run/search/b0.40/history.json").read_text())["epochs"]
    frozen = [epoch["kept"] for epoch in history if epoch["frozen"]]
    assert len(frozen) > 2
    assert all(kept == frozen[0] for kept in frozen)
    assert history[0]["cost"] == 1
    assert torch.tensor(history[0]["kept"]).eq(16).all()
