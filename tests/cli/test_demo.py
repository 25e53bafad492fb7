from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_demo_ignores_settings_here_and_shows_the_command_that_does_the_same(
    program: Program, tmp_path: Path
) -> None:
    settings = tmp_path / "sls-deploy.toml"
    settings.write_text('[model]\nname = "rlfn"\n')
    outcome = program("demo", "--steps", 2, "--out", "runs/my demo", cwd=tmp_path)
    assert outcome.code in (0, 1), outcome.err
    assert [name for name in WRITTEN if not (tmp_path / "runs/my demo" / name).is_file()] == []

    settings.unlink()
    name, *arguments = shlex.split(outcome.out.splitlines()[0])
    again = program(*arguments, cwd=tmp_path)
    assert (name, again.code) == ("sls-deploy", outcome.code)
    assert len(re.findall(r"\(unchanged\)|, unchanged$", again.out, re.MULTILINE)) == 4
