from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import networks

from sls_deploy.config import Config, merge_config
from sls_deploy.models.own import is_own, split_name

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_search_cost_prints_its_table(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [
        sys.executable,
        "search_cost.py",
        "--tiny",
        "--pairs",
        "2",
        "--threads",
        "1",
        "--json",
        str(out),
    ]
    printed = subprocess.check_output(command, cwd=BENCHMARKS, text=True, timeout=120)
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
