"""Reconstruction and `auto` through the search stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sls_deploy.config import Config
from sls_deploy.data.images import write_image
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.progress import Progress
from sls_deploy.search.results import BudgetResult
from sls_deploy.search.stage import search_budgets
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.ratios import read_ratios
from tests.conftest import module_of_few_passes

SETTINGS = {
    "method": "auto", "steps": 6, "patch": 16, "batch": 2, "crops": 8, "permute": False
}  # fmt: skip


few = module_of_few_passes(24)


def changed(config: Config, **search: object) -> Config:
    """Settings of a search of the small network."""
    search_ = config.search.model_copy(update={**SETTINGS, **search})
    return config.model_copy(update={"search": search_})


def of_demo(config: Config, **search: object) -> Config:
    """Settings of a search of the bundled network, which was trained."""
    model = config.model.model_copy(update={"weights": DEMO_WEIGHTS})
    return changed(config, **search).model_copy(update={"model": model})


def ratios(run: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "search" / name / "ratios.json").read_text())
    return found


@dataclass(frozen=True)
class Searched:
    """A search that nothing interrupted."""

    config: Config
    """Its settings."""
    folder: Path
    """Its run folder."""
    row: BudgetResult
    """What it found for its one budget."""


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Both sources tried, one recovered, logs written."""
    settings = changed(config, tensorboard=True)
    folder = tmp_path_factory.mktemp("whole") / "run"
    (row,) = search_budgets(settings, folder).budgets
    return Searched(settings, folder, row)


@pytest.fixture(scope="module")
def reconstructed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A low budget of the bundled network without training, refilled."""
    settings = of_demo(config, budgets=(0.2,), method="reconstruct")
    folder = tmp_path_factory.mktemp("reconstructed") / "run"
    (row,) = search_budgets(settings, folder).budgets
    return Searched(settings, folder, row)


def test_reconstruct_trains_nothing_and_beats_the_learnt_search(
    reconstructed: Searched, config: Config, tmp_path: Path
) -> None:
    row = reconstructed.row
    assert row.steps == 0
    assert 0.18 < row.cost <= 0.2
    learnt_settings = of_demo(config, budgets=(0.2,), method="sls")
    (learnt,) = search_budgets(learnt_settings, tmp_path / "sls").budgets
    assert row.psnr > learnt.psnr


def test_both_sources_are_shown_and_the_better_one_is_taken(whole: Searched) -> None:
    row = whole.row
    assert [source["source"] for source in row.candidates] == ["allocated", "learnt"]
    best = max(row.candidates, key=lambda source: source["psnr"])
    assert [source["chosen"] for source in row.candidates] == [
        source is best for source in row.candidates
    ]
    assert row.psnr >= best["psnr"]


def test_ratios_tell_what_each_layer_alone_would_lose(whole: Searched) -> None:
    rows = read_ratios(whole.folder / "search" / "b0.40" / "ratios.json")["layers"]
    for row in rows:
        measured = dict(row["sensitivity"])
        assert bool(measured) == row["prunable"]
        assert not measured or (measured[row["of"]] == 0 and measured[1] > 0)


def test_nothing_is_learnt_where_all_layers_must_be_2_4(config: Config, tmp_path: Path) -> None:
    settings = changed(config, pattern="2:4", budgets=(0.5,), narrow=0)
    (row,) = search_budgets(settings, tmp_path / "run").budgets
    assert [source["source"] for source in row.candidates] == ["allocated"]


def test_interrupted_recovery_goes_on_to_the_same_bits(whole: Searched, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.task.startswith("recover") and progress.done == 4:
            raise StoppedError

    cut = tmp_path / "cut"
    with pytest.raises(StoppedError):
        search_budgets(whole.config, cut, stop)
    tasks = set()
    search_budgets(whole.config, cut, lambda progress: tasks.add(progress.task))
    assert not {task for task in tasks if task.startswith(("sensitivity", "reconstruct"))}
    files = [folder / "search/b0.40/weights.safetensors" for folder in (whole.folder, cut)]
    assert len({hash_file(file) for file in files}) == 1


def test_low_budgets_of_2_4_narrow_blocks_for_real(config: Config, tmp_path: Path) -> None:
    settings = of_demo(config, method="reconstruct", pattern="2:4", budgets=(0.35,), narrow=8)
    (row,) = search_budgets(settings, tmp_path / "run").budgets
    assert 0.3 < row.cost <= 0.35
    weights = tmp_path / "run/search/b0.35/weights.safetensors"
    model, dense = load_model(weights), load_model(DEMO_WEIGHTS)
    sizes = [sum(p.numel() for p in item.parameters()) for item in (model, dense)]
    assert sizes[0] < 0.8 * sizes[1]
    for layer in ratios(tmp_path / "run", "b0.35")["layers"]:  # type: ignore[attr-defined]
        weight = model.network.get_parameter(f"{layer['name']}.weight").detach()
        assert list(weight.shape[:2]) == layer["width"]
        assert layer["kept"] == layer["of"] or is_2_4(weight.numpy())


def test_refilled_weights_are_2_4_and_never_worse(reconstructed: Searched) -> None:
    row = reconstructed.row
    assert row.refill is not None
    assert row.refill["gain_db"] > 0
    folder = reconstructed.folder / "search/b0.20"
    searched, refilled = (
        load_model(folder / f"{name}.safetensors").network for name in ("weights", "refilled")
    )
    for name in row.refill["layers"]:
        before, after = (
            net.get_parameter(f"{name}.weight").detach() for net in (searched, refilled)
        )
        assert is_2_4(after.numpy())
        assert torch.count_nonzero(after) > torch.count_nonzero(before)


def test_budget_out_of_reach_names_what_can_be_reached_before_any_work(
    config: Config, tmp_path: Path
) -> None:
    def fail(progress: Progress) -> None:
        raise AssertionError(progress)

    settings = changed(config, pattern="2:4", budgets=(0.5, 0.05))
    with pytest.raises(SlsError, match=r"0\.05 is below .* of macs, .* of executable"):
        search_budgets(settings, tmp_path / "run", fail)


def test_photographs_of_one_colour_are_damped_and_said(config: Config, tmp_path: Path) -> None:
    photos = tmp_path / "grey"
    photos.mkdir()
    for number in range(2):
        write_image(photos / f"{number}.png", np.full((96, 96, 3), 90, np.uint8))
    data = config.data.model_copy(update={"photos": photos})
    settings = changed(config, method="reconstruct").model_copy(update={"data": data})
    (row,) = search_budgets(settings, tmp_path / "run").budgets
    assert any("one colour" in note for note in row.notes)
    state = load_model(tmp_path / "run/search/b0.40/weights.safetensors").network.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_too_little_memory_is_named(config: Config, tmp_path: Path) -> None:
    settings = of_demo(config, method="reconstruct", memory=1)
    with pytest.raises(SlsError, match="MiB") as caught:
        search_budgets(settings, tmp_path / "run")
    assert caught.value.where == "--memory"


def test_logs_hold_the_layers_n_and_the_loss(whole: Searched) -> None:
    (events,) = (whole.folder / "search/logs/b0.40").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"N/body.0.body.0" in content
