from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sls_deploy.config import Config
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.models.model import load_model, save_weights
from sls_deploy.progress import Progress
from sls_deploy.run import Run
from sls_deploy.search import stage
from sls_deploy.search.stage import search_budgets
from tests.conftest import module_of_few_passes

WEIGHTS = "weights.safetensors"


few = module_of_few_passes(8)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a search that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    search_budgets(config, folder)
    return folder


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


def test_another_picture_size_of_the_estimate_is_another_search(
    config: Config, tmp_path: Path
) -> None:
    narrowing = {"method": "reconstruct", "pattern": "2:4", "narrow": 8, "crops": 8}
    settings = changed(config, cost="latency", budgets=(0.95,), **narrowing)
    search_budgets(settings, tmp_path / "run")
    larger = settings.build.model_copy(update={"opt_shape": (1, 3, 720, 1280)})
    again = search_budgets(settings.model_copy(update={"build": larger}), tmp_path / "run")
    assert "720x1280" in again.cost_note
    assert not again.budgets[0].skipped


def test_unchanged_search_is_skipped_and_a_lower_budget_added(
    config: Config, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
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
    config: Config, whole: Path, tmp_path: Path, stop: int
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_budgets(config, tmp_path / "cut", interrupt)
    search_budgets(config, tmp_path / "cut")
    for name in (WEIGHTS, "history.json", "ratios.json"):
        files = [run / "search/b0.40" / name for run in (whole, tmp_path / "cut")]
        assert hash_file(files[0]) == hash_file(files[1])


KILLED = """
import sys, time
from pathlib import Path
from sls_deploy.config import Config
from sls_deploy.search import stage
from sls_deploy.search.stage import search_budgets

folder = Path(sys.argv[2])

def stop(progress):
    if progress.done == 9:
        (folder / "reached").touch()
        time.sleep(600)

search_budgets(Config.model_validate_json(sys.argv[1]), folder / "cut", stop)
"""


# The learnt search estimates nothing by passes, so the process needs no few of them.
def test_killed_search_goes_on_to_the_same_bits(
    config: Config, whole: Path, tmp_path: Path
) -> None:
    settings = config.model_dump_json(by_alias=True)
    process = subprocess.Popen([sys.executable, "-c", KILLED, settings, str(tmp_path)])
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    search_budgets(config, tmp_path / "cut")
    weights = [run / "search/b0.40" / WEIGHTS for run in (tmp_path / "cut", whole)]
    assert hash_file(weights[0]) == hash_file(weights[1])


def test_minutes_set_the_number_of_steps(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def steps_within(_: object, minutes: float, step: Callable[[], object], __: object) -> int:
        asked.append((minutes, step()))
        return 7

    monkeypatch.setattr(stage, "steps_within", steps_within)
    timed = changed(config, minutes=3)
    (row,) = search_budgets(timed, tmp_path / "run").budgets
    history = json.loads((tmp_path / "run/search/b0.40/history.json").read_text())["epochs"]
    assert row.steps == history[-1]["step"] == 7
    assert asked[0][0] == 3
    search_budgets(changed(config, steps=7), tmp_path / "plain")
    weights = [tmp_path / run / "search/b0.40" / WEIGHTS for run in ("run", "plain")]
    assert hash_file(weights[0]) == hash_file(weights[1])


def test_folder_of_another_search_is_refused(config: Config, whole: Path) -> None:
    with pytest.raises(SlsError, match=r"search.steps = 12, not 13"):
        search_budgets(changed(config, steps=13), whole)
    with pytest.raises(SlsError, match="only lower ones can be added"):
        search_budgets(changed(config, budgets=(0.6,)), whole)


def test_budget_below_what_can_be_reached_says_what_can(config: Config, tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"0.05 is below .* n:16 .*Ask for 0.0625 or more"):
        search_budgets(changed(config, budgets=(0.05,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pruned_weights_return_only_by_reranking(whole: Path) -> None:
    """After the freeze every layer keeps its number of units to the end."""
    history = json.loads((whole / "search/b0.40/history.json").read_text())["epochs"]
    frozen = [epoch["kept"] for epoch in history if epoch["frozen"]]
    assert len(frozen) > 2
    assert all(kept == frozen[0] for kept in frozen)
    assert history[0]["cost"] == 1
    assert torch.tensor(history[0]["kept"]).eq(16).all()


def test_changed_weights_are_searched_anew_and_resume_anew(
    config: Config, tmp_path: Path, dense: Path
) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(dense.read_bytes())
    own = config.model_copy(update={"model": config.model.model_copy(update={"weights": weights})})
    both = changed(own, budgets=(0.5, 0.4))
    search_budgets(both, tmp_path / "run")
    model = load_model(dense)
    with torch.no_grad():
        model.network.head[0].weight.mul_(1.5)
    save_weights(weights, model)

    def interrupt(progress: Progress) -> None:
        if progress.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_budgets(both, tmp_path / "run", interrupt)
    steps: list[int] = []
    search_budgets(both, tmp_path / "run", lambda progress: steps.append(progress.done))
    assert steps[0] == 7
    search_budgets(both, tmp_path / "fresh")
    for name in (f"search/b0.50/{WEIGHTS}", f"search/b0.40/{WEIGHTS}"):
        assert hash_file(tmp_path / "run" / name) == hash_file(tmp_path / "fresh" / name)


@pytest.mark.parametrize("pattern", ["2:4", "n:16"])
def test_next_budget_starts_from_what_the_one_before_left(
    config: Config, tmp_path: Path, pattern: str
) -> None:
    search_budgets(changed(config, pattern=pattern, budgets=(0.8, 0.6)), tmp_path / "run")
    epochs = [
        json.loads((tmp_path / f"run/search/{name}/history.json").read_text())["epochs"]
        for name in ("b0.80", "b0.60")
    ]
    assert epochs[1][0]["kept"] == epochs[0][-1]["kept"]
    assert not epochs[1][0]["frozen"]


def test_diverged_search_is_no_result(config: Config, tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"loss is (nan|inf) at step \d+.*--learning-rate"):
        search_budgets(changed(config, learning_rate=1e12), tmp_path / "run")
    assert not (tmp_path / "run/search/b0.40").exists()


def test_photographs_of_one_name_in_two_folders_both_count(
    config: Config, tmp_path: Path, photos: Path
) -> None:
    for folder, source in (("day", "astronaut"), ("night", "coffee")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        shutil.copy(photos / f"{source}.png", tmp_path / "photos" / folder / "1.png")
    data = config.data.model_copy(update={"photos": tmp_path / "photos"})
    own = changed(config, steps=2).model_copy(update={"data": data})
    search_budgets(own, tmp_path / "run")
    for folder in ("day", "night"):
        shutil.copy(photos / "chelsea.png", tmp_path / "photos" / folder / "1.png")
        assert not search_budgets(own, tmp_path / "run").budgets[0].skipped
