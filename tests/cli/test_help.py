from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sls_deploy.cli.main import app
from sls_deploy.models.registry import REGISTRY

Program = Callable[..., Any]

COMMANDS = ("init", "run", "search", "export", "build", "validate", "demo", "train", "inspect",
            "models", "bench", "doctor", "report", "restore", "package",
            "adapt")  # fmt: skip

ALL_HELPS = f"""
import sys
from sls_deploy.cli.main import main
for command in ((), *(({"{}"},) for {"{}"} in {COMMANDS!r})):
    sys.argv = ["sls-deploy", *command, "--help"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
heavy = ("torch", "onnx", "onnx_ir", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy", "skimage")
sys.exit(" ".join(name for name in heavy if name in sys.modules) or 0)
""".replace("{}", "name")


def test_no_command_is_missing_here() -> None:
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)  # type: ignore[attr-defined]


def test_help_of_every_command_needs_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL_HELPS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: sls-deploy ") == len(COMMANDS) + 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_two_commands_that_parse(
    command: str, program: Program, tmp_path: Path
) -> None:
    lines = program(command, "--help", cwd=tmp_path).out.splitlines()
    assert lines[0].startswith(f"Usage: sls-deploy {command}")
    examples = [shlex.split(line) for line in lines[2:4]]
    group = typer.main.get_command(app)
    for example in examples:
        assert example[:2] == ["sls-deploy", command]
        group.commands[command].make_context(command, example[2:])  # type: ignore[attr-defined]
    assert not lines[4].strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert [parameter.name for parameter in parameters if not parameter.help] == []


def test_program_alone_shows_its_help(program: Program, tmp_path: Path) -> None:
    outcome = program(cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"\n  {command} " in outcome.out for command in COMMANDS)


def test_version(program: Program, tmp_path: Path) -> None:
    from sls_deploy import __version__

    assert program("--version", cwd=tmp_path).out == f"sls-deploy {__version__}\n"


def test_models_lists_the_registry_with_papers(program: Program, tmp_path: Path) -> None:
    papers = {name: REGISTRY.get(name).paper for name in REGISTRY.names() if name != "spandrel"}
    found = json.loads(program("models", "--json", cwd=tmp_path).out)
    assert {row["name"]: row["paper"] for row in found} == papers
    dmphn = next(row for row in found if row["name"] == "dmphn")
    assert (dmphn["parameters"], dmphn["multiple"]) == (7_232_524, 16)
    lines = program("models", cwd=tmp_path).out.splitlines()[2:]
    assert [line.split()[0] for line in lines[:-1]] == list(papers)
    assert "path/to/file.py:factory" in lines[-1]


@pytest.mark.parametrize(("given", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "x"}, "x")])
def test_waiting_threads_sleep_unless_told_otherwise(given: dict[str, str], expected: str) -> None:
    script = """
import os, sys
from sls_deploy.cli.main import main
sys.argv = ["sls-deploy", "--version"]
try:
    main()
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    kept = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == expected
