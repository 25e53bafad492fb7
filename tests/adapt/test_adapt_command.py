from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sls_deploy.cli.adapt import adapt
from tests.adapt.conftest import make_run

FEW = ("--tile", "16", "--tiles", "64", "--calibration-tiles", "32", "--steps", "3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two networks."""
    return make_run(tmp_path / "runs" / "linear").path


def call(*arguments: object) -> Any:
    """Give the command these arguments; nothing here builds for sm87, so no engine is built."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(adapt)
    given = [str(argument) for argument in (*arguments, *FEW, "--arch", "sm87")]
    return CliRunner().invoke(app, given)


def test_the_command_prints_candidates_the_curve_and_what_was_left_out(
    folder: Path, photos: Path
) -> None:
    lines = call(folder, "--data", photos).stdout.splitlines()
    assert lines[0].startswith("adapted: tiles of 16, ")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert [rows[name][0] for name in ("skip", "b0.25", "b0.50")] == ["0.000", "0.200", "0.500"]
    title = next(place for place, line in enumerate(lines) if line.startswith("chosen by tile"))
    costs = [float(line.split()[0]) for line in lines[title + 2 :] if line[0].isdigit()][:-1]
    assert costs == sorted(costs, reverse=True)
    assert any("no engine for sm87" in line for line in lines)
    assert lines[-1].startswith("8 photographs, ")
    again = call(folder, "--data", photos).stdout.splitlines()
    assert again[0].startswith("adapted (unchanged): ")


def test_as_json_it_tells_the_same(folder: Path, photos: Path) -> None:
    found = json.loads(call(folder, "--data", photos, "--no-skip", "--json").stdout)
    assert [one["name"] for one in found["adaptation"]["candidates"]] == ["b0.25", "b0.50"]
    assert len(found["mse"]) == 2
    assert found["curve"][0]["cost"] >= found["curve"][-1]["cost"]
    assert found["engines"][0]["plan"] is None


def test_without_photographs_it_asks_for_them(folder: Path) -> None:
    outcome = call(folder)
    assert str(outcome.exception) == (
        "--data: no photographs were named. Give a folder of pictures."
    )
