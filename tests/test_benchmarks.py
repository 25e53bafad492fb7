from __future__ import annotations

import json
import sys
from pathlib import Path

import networks
import precisions
import pytest
import search_cost
import torch
from precision_tables import make_tables, parity_table

from sls_deploy.config import Config, ExportConfig
from sls_deploy.config_file import merge_config, parse_section
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.models.own import is_own, split_name
from tests.conftest import few_passes

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_search_cost_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, threads = tmp_path / "figures.json", torch.get_num_threads()
    flags = ["--tiny", "--pairs", "2", "--threads", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "search_cost.py"), *flags])
    try:
        search_cost.main()  # processes of its own measure the memory
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text("utf-8"))["figures"]
    for name in figures:
        assert name in printed
    assert 1 < figures["model's state over dense weights"]["ours"] < 1.3
    assert figures["peak RSS, MiB"]["dense"] > 0


def test_every_network_of_the_table_has_settings_that_hold() -> None:
    for entry in networks.ENTRIES.values():
        config = merge_config(Config(), entry.settings)
        name = config.model.name
        if is_own(name):
            assert split_name(name)[0].is_file()


def test_row_of_a_network_is_a_line_of_the_table() -> None:
    budget = {
        "cost": 0.5, "exported_cost": 0.6, "lost_db": 0.04, "metric": "psnr_rgb",
        "dense_db": 27.738, "steps": 150, "parity_fp32_db": 148.2, "parity_fp16_db": 76.4,
        "plan_bytes": 2**20,
    }  # fmt: skip
    row = {
        "title": "mine", "scale": 1, "pattern": "2:4", "parameters": 1234, "layers": 5,
        "prunable_layers": 3, "prunable": 0.9, "eligible": 0.8, "pictures": "GoPro",
        "budgets": {"0.5": budget, "0.25": {**budget, "cost": 0.249, "lost_db": 0.5}},
    }  # fmt: skip
    assert networks.line_of(row) == (
        "| mine, x1, 2:4 | 1,234 | 5, 3 | 90%, 80% | 27.74 RGB, GoPro | 0.500, 0.249 | "
        "0.600, 0.600 | +0.04, +0.50 | 150 | 148/76, 148/76 | 1.0, 1.0 |"
    )


def test_every_network_of_the_precisions_has_settings_that_hold() -> None:
    for entry in precisions.ENTRIES.values():
        assert merge_config(Config(), entry.settings).search.pattern == "2:4"
        assert set(entry.parts) <= precisions.PARTS.keys()
    for _, settings in precisions.VARIANTS.values():
        parse_section(ExportConfig, settings, "the variants")


def test_tables_of_the_precisions_stand_in_their_page() -> None:
    folder = BENCHMARKS / "results" / "precisions"
    tables = make_tables(folder, list(precisions.ENTRIES))
    assert len(tables) == len(precisions.PARTS)
    page = (BENCHMARKS.parent / "docs" / "precisions.md").read_text("utf-8")
    for table in tables:
        assert table in page


def test_layers_in_a_higher_precision_are_counted_once() -> None:
    parity = {"psnr_db": 70.04, "max_error": 0.5, "place": "here"}
    found = {"parity": parity, "rounded": None, "loss_db": 0.0, "refused": "", "plan_bytes": 2**20}
    behind = dict.fromkeys(("a.Conv", "a.Relu"), "layer a.Conv alone loses 0.1 dB in fp16")
    ends = {"first": "first layer", "last": "last layer", "b": "alone loses 0.2 dB in int8"}
    record = {
        "title": "mine",
        "layers": {"total": 9},
        "files": {
            "fp16": {**found, "kept": behind, "rounded": {**parity, "max_error": 0.25}},
            "int8": {**found, "kept": {**behind, **ends}},
        },
    }
    assert parity_table([record]).splitlines()[2:] == [
        "| mine | fp16 | 70.0 | 70.0 | 2.5e-01 | here | 0.000 | 1 of 9 | 1.0 |",
        "| mine | int8 | 70.0 | - | 5.0e-01 | here | 0.000 | 2 + 1 of 9 | 1.0 |",
    ]


def test_row_of_the_order_is_measured_on_real_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_passes(monkeypatch, 2)
    torch.manual_seed(0)
    options = {"features": 16, "blocks": 1, "scale": 2, "input_range": 1.0}
    save_weights(tmp_path / "small.safetensors", build_model(Description("edsr", options, 2, 1.0)))
    photos = sample_photos()
    for name in ("astronaut", "coffee", "chelsea"):
        write_image(tmp_path / "photos" / f"{name}.png", photos[name][40:168, 40:168])
    for name in precisions.SETS:
        write_image(tmp_path / name / "1.png", photos["rocket"][100:164, 200:280])
    flags = {
        "model": {"weights": tmp_path / "small.safetensors"},
        "data": {"photos": tmp_path / "photos", "held_out": 2},
        "search": {"method": "reconstruct", "crops": 4, "patch": 12, "narrow": 0},
    }
    config = merge_config(Config(), flags)
    network = precisions.Network(config, tmp_path / "runs", "edsr", tmp_path)
    psnr = precisions.order(network)["psnr"]
    facts = precisions.permutation(network)
    for name in precisions.SETS:
        assert len({values[name] for values in psnr.values()}) == 3
    assert {layer["name"] for layer in facts["layers"]} > set(facts["interiors"]) != set()
