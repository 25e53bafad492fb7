"""What was made from files that are no longer there is not passed on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.models.model import load_model, save_weights
from sls_deploy.run import Run

Program = Callable[..., Any]
ENGINE = "TensorRT sm86-fp16"
UNLIMITED = ("--max-loss-db", 99, "--max-picture-loss-db", 99)


@pytest.fixture
def folder(project: Any, tmp_path: Path) -> Path:
    """A folder with a copy of the project's run."""
    shutil.copytree(project.run, tmp_path / "runs" / "small")
    return tmp_path


def weights_of(folder: Path) -> Path:
    return folder / "runs/small/search/b0.50/weights.safetensors"


def search_again(folder: Path) -> None:
    """Put other weights there, as another search would."""
    run = Run.open(folder / "runs/small")
    path = weights_of(folder)

    def work() -> list[Path]:
        model = load_model(path)
        state = {name: 1.01 * value for name, value in model.network.state_dict().items()}
        save_weights(path, model, state)
        return sorted(path.parent.iterdir())

    run.stage("search/b0.50", {"again": True}, work)


def validations(folder: Path) -> list[Any]:
    report = json.loads((folder / "runs/small/validation/report.json").read_text())
    return [found for budget in report["budgets"] for found in budget["validations"]]


@pytest.mark.parametrize(
    ("command", "done"),
    [("export --budget 0.5", "searched"), ("build", "exported"), ("validate", "exported")],
)
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"spoilt"), Path.unlink])
def test_changed_weights_stop_what_comes_after_them(
    program: Program, folder: Path, command: str, done: str, change: Callable[[Path], object]
) -> None:
    change(weights_of(folder))
    outcome = program(*command.split(), cwd=folder)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    expected = rf"error: runs/small: budget 0\.5 must be {done} again: its files have changed\. "
    assert re.match(expected, outcome.err)


@pytest.mark.parametrize("command", ["build", "validate"])
def test_new_search_asks_for_a_new_export(program: Program, folder: Path, command: str) -> None:
    search_again(folder)
    outcome = program(command, cwd=folder)
    assert outcome.code == 2
    assert "must be exported again" in outcome.err


def test_old_engine_is_not_run_until_it_is_built_from_the_new_export(
    program: Program, folder: Path
) -> None:
    (before,) = validations(folder)
    search_again(folder)
    exported = program("export", "--budget", "0.5", "--json", cwd=folder)
    program("validate", *UNLIMITED, cwd=folder)
    (stale,) = validations(folder)
    built = program("build", "--json", cwd=folder)
    program("validate", *UNLIMITED, cwd=folder)
    (fresh,) = validations(folder)
    reason = "it, or what it was built from, has changed: build it again"
    assert [json.loads(said.out)[0]["skipped"] for said in (exported, built)] == [False, False]
    assert stale["not_run"][ENGINE] == reason
    assert [ENGINE in figures["evidence"] for figures in (before, stale, fresh)] == [
        True,
        False,
        True,
    ]
    assert fresh["evidence"][ENGINE]["level"] == "L1"
    assert reason not in (before["not_run"].get(ENGINE), fresh["not_run"].get(ENGINE))


def test_report_keeps_only_figures_that_still_hold(program: Program, folder: Path) -> None:
    cat = sample_photos()["chelsea"]
    write_image(folder / "nose" / "nose.png", cat[150:190, 200:250])
    flags = (*UNLIMITED, "--data", "nose")
    program("validate", *flags, cwd=folder)
    both = [Path(validation["folder"]).name for validation in validations(folder)]
    search_again(folder)
    program("export", "--budget", "0.5", cwd=folder)
    program("validate", *flags, cwd=folder)
    assert len(both) == 2
    assert [Path(validation["folder"]).name for validation in validations(folder)] == ["nose"]
