from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
