"""`sls-deploy doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import TypeAdapter

from sls_deploy.cli.main import app
from sls_deploy.doctor import examine
from sls_deploy.doctor.diagnosis import Ability, Diagnosis, Finding
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import gpu_architecture

Program = Callable[..., Any]
NO_GPU = pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
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


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the doctor is called."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def outcome(program: Program, visited: Path) -> Any:
    """How a real visit ends."""
    return program("doctor", "--json", cwd=visited)


@pytest.fixture(scope="module")
def diagnosis(outcome: Any) -> Diagnosis:
    """What a real visit found."""
    found = json.loads(outcome.out)
    del found["works"]  # follows from the rest
    return TypeAdapter(Diagnosis).validate_python(found)


def test_a_real_visit_in_json(outcome: Any, visited: Path) -> None:
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found["works"] is True
    assert str(visited) in next(
        item["says"] for item in found["findings"] if item["name"] == "working folder"
    )
    assert list(visited.iterdir()) == []


def named(items: tuple[Finding, ...]) -> dict[str, Finding]:
    return {item.name: item for item in items}


def test_finds_what_is_installed_here(diagnosis: Diagnosis) -> None:
    found = named(diagnosis.findings)
    assert found["PyTorch"].says.startswith(metadata.version("torch"))
    assert metadata.version("onnx") in found["ONNX"].says
    assert metadata.version("onnxruntime") in found["ONNX Runtime"].says
    assert found["tensorrt_rtx"].says == BACKENDS["tensorrt_rtx"].version
    assert all(found[name].state == "ok" for name in ("Python", "PyTorch", "ONNX", "ONNX Runtime"))


def test_builds_a_real_engine(diagnosis: Diagnosis) -> None:
    build = named(diagnosis.findings)["tensorrt_rtx: build"]
    assert build.state == "ok"
    assert "sm80, sm86" in build.says


def test_this_machine_does_the_whole_flow(diagnosis: Diagnosis) -> None:
    assert diagnosis.works
    works = {item.name: item.works for item in diagnosis.abilities}
    assert all(works[name] for name in ("search", "export", "build", "validate"))


@NO_GPU
def test_without_a_gpu_engines_do_not_run_and_that_is_no_failure(diagnosis: Diagnosis) -> None:
    run = diagnosis.abilities[-1]
    assert (run.works, run.essential) == (False, False)
    assert "L1" in run.says
    assert "pip install 'sls-deploy[gpu]'" in run.fix


def test_every_trouble_names_a_way_out(diagnosis: Diagnosis) -> None:
    assert [item.name for item in diagnosis.findings if item.state == "broken"] == []
    assert [item.name for item in diagnosis.abilities if not item.works and not item.fix] == []


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
