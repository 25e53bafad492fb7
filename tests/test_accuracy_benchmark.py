"""The accuracy benchmark on a small network and small pieces of photographs."""

from __future__ import annotations

import json
from pathlib import Path

import accuracy
import cells
import pytest
import table
import torch
from figures import mean_psnr, milliseconds
from task import Task

from sls_deploy.config import Config, DataConfig, ModelConfig, SearchConfig
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import build_model, load_model, save_weights
from sls_deploy.search.cost import ExecutableCost, MacsCost
from sls_deploy.sparsity.legality import is_2_4
from tests.conftest import few_passes

OPTIONS = {"features": 16, "blocks": 2, "scale": 2, "input_range": 1.0}
SEARCH = SearchConfig(steps=4, batch=2, patch=12, crops=8, narrow=8)
STEPS = {"a": 4, "a2": 4, "b": round(4 / (1 - SEARCH.search_share)), "d": 4}
"""Those of the fine-tuning are equal; the paper's search finds its ratios before."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, pieces of photographs to learn from and to measure on."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(3)
    model = build_model(Description("edsr", OPTIONS, 2, 1.0))
    save_weights(folder / "ckpt" / "small.safetensors", model)
    photos = sample_photos()
    for name in ("astronaut", "coffee", "chelsea"):
        write_image(folder / "train" / f"{name}.png", photos[name][40:168, 40:168])
    for number, name in enumerate(table.SETS):
        top = 60 + 40 * number
        write_image(folder / "bench" / name / "1.png", photos["chelsea"][top : top + 64, 80:160])
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "NETWORKS", {"small": ("small.safetensors", 2)})
    monkeypatch.setattr(accuracy, "milliseconds", lambda models: [2.0, 1.0])
    few_passes(monkeypatch, 4)


def task(data: Path, method: str, budget: float) -> Task:
    search = {**SEARCH.model_dump(), **cells.METHODS[method].settings, "budgets": (budget,)}
    return Task(
        Config(
            model=ModelConfig(weights=data / "ckpt" / "small.safetensors"),
            data=DataConfig(photos=data / "train", held_out=2),
            search=SearchConfig.model_validate(search),
        )
    )


@pytest.mark.parametrize("method", STEPS)
def test_methods_reach_the_budget_with_legal_weights(data: Path, method: str) -> None:
    work = task(data, method, 0.25)
    outcome = cells.METHODS[method].prune(work)
    assert 0.2 < outcome.share(work.layers, work.pattern, MacsCost()) <= 0.25 + 1e-9
    kept = [(outcome.state[f"{layer.name}.weight"] != 0) for layer in work.layers]
    share = sum(int(mask.sum()) for mask in kept) / sum(mask.numel() for mask in kept)
    assert share == pytest.approx(0.25, abs=0.05)
    assert outcome.steps == STEPS[method]


def test_uniform_keeps_the_same_n_in_every_group(data: Path) -> None:
    work = task(data, "a2", 0.25)
    outcome = cells.uniform(work)
    for layer in work.layers:
        weight = outcome.state[f"{layer.name}.weight"]
        groups = (weight != 0).unflatten(1, (-1, 16)).sum(2)
        assert groups.eq(4).all()
        assert is_2_4(weight.numpy())


@pytest.mark.parametrize(("method", "budget"), [("f", 0.4), ("g", 0.8), ("h", 0.8)])
def test_narrowed_networks_execute_what_was_asked(data: Path, method: str, budget: float) -> None:
    work = task(data, method, budget)
    outcome = cells.METHODS[method].prune(work)
    executed = outcome.share(work.layers, work.pattern, ExecutableCost())
    assert budget - 0.05 < executed <= budget + 1e-9
    assert method == "f" or set(outcome.units.values()) == {work.pattern.units}
    assert outcome.model.description.widths
    picture = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert outcome.model(picture).shape == (1, 3, 32, 32)


def test_all_2_4_leaves_no_layer_dense(data: Path) -> None:
    work = task(data, "e", 0.5)
    outcome = cells.searched(work)
    assert not outcome.model.description.widths
    assert all(is_2_4(outcome.state[f"{layer.name}.weight"].numpy()) for layer in work.layers)


def test_cells_are_run_once_and_make_a_table(data: Path, tmp_path: Path) -> None:
    settings = accuracy.Settings(data, SEARCH)

    def run(methods: tuple[str, ...]) -> list[str]:
        said: list[str] = []
        listed = accuracy.list_cells(("small",), methods, (0.25,), (0,))
        accuracy.run_cells(listed, settings, tmp_path, said.append)
        return [line.removesuffix(" ...") for line in said if line.endswith("...")]

    assert run(("a", "c")) == ["small-dense-b1.00-s0", "small-c-b0.25-s0", "small-a-b0.25-s0"]
    assert run(("a", "c")) == []
    (tmp_path / "small-a-b0.25-s0.json").unlink()
    assert run(("a", "c")) == ["small-a-b0.25-s0"]
    lines = table.make_table(table.read_records(tmp_path)).splitlines()
    rows = {tuple(cell.strip() for cell in line.split("|")[2:4]): line for line in lines}
    record = json.loads((tmp_path / "small-c-b0.25-s0.json").read_text())
    dense = json.loads((tmp_path / "small-dense-b1.00-s0.json").read_text())
    assert set(record["psnr"]) == set(table.SETS)
    done = rows["reconstruct, no training", "0.25"]
    assert f"{record['psnr']['B100'] - dense['psnr']['B100']:+.3f}" in done
    assert "| 0.50 |" in done
    assert set(rows["auto", "0.25"].split("|")[4:-1]) == {" - "}


def test_budget_out_of_reach_is_a_result(data: Path, tmp_path: Path) -> None:
    settings = accuracy.Settings(data, SEARCH)
    accuracy.run_cells(iter([accuracy.Cell("small", "g", 0.28, 0)]), settings, tmp_path, print)
    (record,) = table.read_records(tmp_path)
    assert "is below what" in record["failed"]
    assert f"- g at 0.28: {record['failed']}" in table.make_table([record])


def test_other_settings_are_refused(data: Path, tmp_path: Path) -> None:
    cell = accuracy.Cell("small", "dense", 1.0, 0)
    accuracy.run_cells(iter([cell]), accuracy.Settings(data, SEARCH), tmp_path, print)
    longer = accuracy.Settings(data, SEARCH.model_copy(update={"steps": 5}))
    with pytest.raises(SlsError, match="other settings"):
        accuracy.run_cells(iter([cell]), longer, tmp_path, print)


def test_every_cell_is_listed_in_order() -> None:
    listed = list(accuracy.list_cells(("small",), ("a", "c", "f"), (0.25, 0.5), (1, 0)))
    assert [cell.name for cell in listed[:6]] == [
        "small-dense-b1.00-s0", "small-c-b0.50-s0", "small-c-b0.25-s0", "small-a-b0.50-s0",
        "small-a-b0.25-s0", "small-f-b0.28-s0",
    ]  # fmt: skip
    assert len(listed) == len(set(listed)) == 11


def test_times_and_psnr_of_a_network(data: Path) -> None:
    model = load_model(DEMO_WEIGHTS)
    assert milliseconds([model], side=16, repeats=1)[0] > 0
    assert 20 < mean_psnr(model, data / "bench" / "Set5") < 60
