from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.cli import demo
from tests.conftest import few_passes

Program = Callable[..., Any]

WRITTEN = (
    "search/b0.50/weights.safetensors",
    "search/b0.50/ratios.json",
    "export/b0.50/model.fp32.onnx",
    "export/b0.50/model.fp16.onnx",
    "export/b0.50/proof.json",
    "engines/b0.50/sm86-fp16.plan",
    "engines/b0.50/sm86-fp16.json",
    "validation/report.json",
)


def check_demo(program: Program, folder: Path) -> None:
    """Give the demo, and then the command that it shows."""
    settings = folder / "sls-deploy.toml"
    settings.write_text('[model]\nname = "rlfn"\n')
    outcome = program("demo", "--steps", 2, "--out", "runs/my demo", cwd=folder)
    assert outcome.code in (0, 1), outcome.err
    assert [name for name in WRITTEN if not (folder / "runs/my demo" / name).is_file()] == []

    settings.unlink()
    name, *arguments = shlex.split(outcome.out.splitlines()[0])
    again = program(*arguments, cwd=folder)
    assert (name, again.code) == ("sls-deploy", outcome.code)
    assert len(re.findall(r"\(unchanged\)|, unchanged$", again.out, re.MULTILINE)) == 4


def test_demo_ignores_settings_here_and_shows_the_command_that_does_the_same(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searched on smaller crops, in fewer passes."""
    few_passes(monkeypatch)
    monkeypatch.setattr(demo, "PATCH", 8)
    check_demo(program, tmp_path)


@pytest.mark.slow
def test_demo_does_so_on_its_own_crops(program: Program, tmp_path: Path) -> None:
    check_demo(program, tmp_path)
