"""The README's commands run, with short searches in place of long ones."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from sls_deploy.cli.main import main
from sls_deploy.data.samples import export_samples
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.models.registry import Description

README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("sls-deploy ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the README's commands name."""
    root = tmp_path_factory.mktemp("readme")
    export_samples(root / "photos", ["astronaut", "coffee"])
    export_samples(root / "Set5", ["chelsea"])
    torch.manual_seed(0)
    options = {"features": 16, "blocks": 1, "scale": 2, "input_range": 1.0}
    save_weights(root / "dense.safetensors", build_model(Description("edsr", options, 2, 1.0)))
    return root


def test_readme_shows_the_commands_of_the_flow() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert {"run", "init", "search", "export", "build", "validate"} <= shown


def test_readme_holds_no_placeholder() -> None:
    assert re.findall(r"\b[A-Z]+_RESULTS?\b|\bTODO\b|\bTBD\b", README.read_text("utf-8")) == []


def test_readme_commands_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for command in commands():
        words = shlex.split(re.sub(r"--minutes \S+", "--steps 4 --patch 16 --batch 2", command))
        if words[1] in ("run", "validate"):
            words += ["--max-loss-db", "99"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None), command
