"""`sls-deploy doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sls_deploy.cli.main import app
from sls_deploy.doctor import examine
from sls_deploy.doctor.diagnosis import Ability, Diagnosis, Finding

Program = Callable[..., Any]
SOUND = Diagnosis(
    (Finding("Python", "ok", "3.11.7"), Finding("GPU", "absent", "no NVIDIA driver is installed")),
    (
        Ability("search", True, True, "tried and found to work: PyTorch"),
        Ability("run and time engines", False, False, "no GPU", "On the machine with the GPU"),
    ),
)
BROKEN = Diagnosis(
    (Finding("PyTorch", "broken", "crashes (Aborted)", "pip install torch"),),
    (Ability("search", False, True, "PyTorch: crashes (Aborted)", "pip install torch"),),
)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[Diagnosis], None]:
    """Replaces the examination, which tests of the doctor run for real."""

    def install(diagnosis: Diagnosis) -> None:
        monkeypatch.setattr(examine, "examine", lambda folder: diagnosis)

    return install


Says = Callable[[Diagnosis], None]


def test_a_real_visit_in_json(program: Program, tmp_path: Path) -> None:
    outcome = program("doctor", "--json", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found["works"] is True
    assert str(tmp_path) in next(
        item["says"] for item in found["findings"] if item["name"] == "working folder"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_but_not_needed_is_no_failure(
    program: Program, tmp_path: Path, says: Says
) -> None:
    says(SOUND)
    outcome = program("doctor", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[2].split() == ["Python", "ok", "3.11.7"]
    assert lines[6].split()[:2] == ["search", "yes"]
    assert lines[-1] == "run and time engines: On the machine with the GPU"


def test_what_is_needed_and_broken_is_a_failure_with_one_way_out(
    program: Program, tmp_path: Path, says: Says
) -> None:
    says(BROKEN)
    outcome = program("doctor", cwd=tmp_path)
    assert outcome.code == 1
    assert outcome.err == "error: search does not work: PyTorch: crashes (Aborted)\n"
    assert outcome.out.splitlines()[-1] == "PyTorch, search: pip install torch"
    outcome = program("doctor", "--json", cwd=tmp_path)
    assert outcome.code == 1
    assert json.loads(outcome.out)["works"] is False


def test_the_commands_of_the_gpu_checklist_parse() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gpu-checklist.md").read_text()
    commands = re.findall(r"^sls-deploy .*$", text, re.MULTILINE)
    assert len(commands) > 8
    group = typer.main.get_command(app)
    for command in commands:
        _, name, *given = shlex.split(command.partition(" > ")[0], comments=True)
        group.commands[name].make_context(name, given)  # type: ignore[attr-defined]
