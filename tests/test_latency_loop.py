"""The latency loop, whole but small: real layers, a real search, real exports, one processor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import latency_loop
import pytest
import torch

from sls_deploy.calibration import cpu_layers
from sls_deploy.calibration.cpu_layers import CpuLayers
from sls_deploy.calibration.latency import LayerShape, LayerTime, read_table, write_table
from sls_deploy.config import Config, DataConfig, ModelConfig, SearchConfig
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, load_model, save_weights
from sls_deploy.search.cost import Form, TableCost, dense_form
from sls_deploy.search.prepare import prepare
from sls_deploy.search.stage import search_budgets
from sls_deploy.sparsity.ratios import read_ratios
from tests.conftest import few_passes

BUDGET = 0.95
PICTURE = (64, 64)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a search without training of a network with one block."""
    folder = tmp_path_factory.mktemp("loop")
    torch.manual_seed(0)
    options = {"features": 32, "blocks": 1, "scale": 2, "input_range": 1.0}
    weights = save_weights(
        folder / "small.safetensors", build_model(Description("edsr", options, 2, 1.0))
    )
    photos = sample_photos()
    for name in ("astronaut", "coffee", "chelsea"):
        write_image(folder / "photos" / f"{name}.png", photos[name][40:168, 40:168])
    search = {"method": "reconstruct", "crops": 4, "patch": 16, "permute": False}
    return Config(
        model=ModelConfig(weights=weights),
        data=DataConfig(photos=folder / "photos", held_out=2),
        search=SearchConfig.model_validate(search),
    )


@pytest.fixture(scope="module")
def loop(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the loop was done in, and what it found.

    2:4 layers are said to take the time of dense ones, as they do on a processor: on a busy machine
    chance would now and then show a gain.
    """
    folder = tmp_path_factory.mktemp("runs")
    measured = CpuLayers.time

    def gainless(self: CpuLayers, shape: LayerShape) -> LayerTime:
        time = measured(self, shape)
        return replace(time, sparse_us=time.dense_us)

    searches = {
        "latency": {"cost": "latency", "budgets": (BUDGET,)},
        "macs": {"cost": "macs", "budgets": (0.5,), "narrow": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_loop, "SEARCHES", searches)
        few_passes(patch, 8)
        patch.setattr(cpu_layers, "_SECONDS", 0.02)
        patch.setattr(CpuLayers, "time", gainless)
        return folder, latency_loop.run_loop(config, PICTURE, folder, repeats=3)


def model_of(folder: Path) -> TableCost:
    return TableCost(read_table(folder / "table.json"))


def test_a_network_searched_by_latency_is_predicted_within_its_budget(
    loop: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = loop
    ratios = read_ratios(folder / "latency" / "search" / "b0.95" / "ratios.json")
    dense, narrowed, sparse = found["rows"]
    assert ratios["cost"] <= BUDGET
    assert narrowed["budget"] == pytest.approx(ratios["cost"])
    assert narrowed["predicted"] == pytest.approx(ratios["network_cost"])
    assert narrowed["narrowed"] > 0
    assert (dense["budget"], dense["predicted"]) == (1, 1)
    assert (sparse["narrowed"], sparse["sparse"]) == (0, 4)
    assert ratios["cost_note"].startswith(f"measured on {found['machine']['device']} with")


def test_layers_that_gain_no_time_stay_dense_and_say_so(
    config: Config, loop: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = loop
    model = model_of(folder)
    ratios = read_ratios(folder / "latency" / "search" / "b0.95" / "ratios.json")
    rows = {row["name"]: row for row in ratios["layers"]}
    assert config.model.weights is not None
    start = prepare(load_model(config.model.weights, config.model), config)
    gainless = 0
    for layer in start.prunable:
        outputs, inputs = rows[layer.name]["width"]
        whole, form = dense_form(layer), Form(inputs, outputs, 4, 4)
        if all(
            model.price(layer, Form(f.inputs, f.outputs, 2, 4)) == model.price(layer, f)
            for f in (whole, form)
        ):
            gainless += 1
            assert rows[layer.name]["kept"] == rows[layer.name]["of"]
            assert rows[layer.name]["reason"].startswith("2:4 saves no")
    assert gainless > 0


def test_every_network_was_exported_and_timed(loop: tuple[Path, dict[str, Any]]) -> None:
    folder, found = loop
    assert len(list(folder.rglob("model.fp32.onnx"))) == 2
    assert [row["name"] for row in found["rows"]] == ["dense", "latency 0.95", "macs 0.5"]
    assert all(row["milliseconds"] > 0 and row["wall_ms"] > 0 for row in found["rows"])
    assert found["rows"][0]["measured"] == 1


def test_what_was_found_is_printed(
    loop: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    latency_loop.show(loop[1])
    printed = capsys.readouterr().out
    for row in loop[1]["rows"]:
        assert row["name"] in printed
    assert loop[1]["machine"]["device"] in printed


def test_a_latency_that_no_narrowing_reaches_is_refused_with_what_can_be(
    config: Config, loop: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    search = {"cost": "latency", "latency_table": loop[0] / "table.json", "budgets": (0.1,)}
    low = config.model_copy(update={"search": config.search.model_copy(update=search)})
    with pytest.raises(SlsError, match=r"--budget: 0\.1 is below .*\(0\.\d+ of lat") as caught:
        search_budgets(low, tmp_path / "run")
    least = float(caught.value.what.partition("(")[2].partition(" of latency")[0])
    assert caught.value.fix == f"Ask for {least:g} or more."


def test_what_casts_doubt_on_a_table_stands_in_what_a_search_says(
    config: Config, loop: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    table = read_table(loop[0] / "table.json")
    halved = tuple(replace(row, sparse_us=row.dense_us / 2, spread=0.0) for row in table.rows)
    doubted = replace(table, rows=halved, warnings=("it was hot",))
    path = write_table(tmp_path / "table.json", doubted)
    search = {
        "cost": "latency", "latency_table": path, "budgets": (0.9,), "method": "sls", "steps": 2,
        "batch": 2,
    }  # fmt: skip
    told = config.model_copy(update={"search": config.search.model_copy(update=search)})
    note = search_budgets(told, tmp_path / "run").cost_note
    assert "it was hot" in note
    assert "pictures of 180x320, not 64x64" in note
    assert read_ratios(tmp_path / "run/search/b0.90/ratios.json")["cost_note"] == note


def test_the_figures_of_the_readme_are_those_that_were_measured() -> None:
    folder = Path(latency_loop.__file__).parent
    found = json.loads((folder / "results" / "latency_loop.json").read_text("utf-8"))
    page = (folder / "README.md").read_text("utf-8")
    for row in found["rows"]:
        shares = " | ".join(f"{row[key]:.3f}" for key in ("budget", "predicted", "measured"))
        assert f"| {row['name']} | {shares} | {row['milliseconds']:.0f} |" in page
