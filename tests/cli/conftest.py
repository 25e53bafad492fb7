"""The program in process, and one small project that went through every command once."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch

from sls_deploy.cli.main import main
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import export_samples, sample_photos
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from tests.conftest import MadeOnce, few_passes


@dataclass(frozen=True)
class Outcome:
    """How the program ended."""

    code: int
    """Exit code."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""


@dataclass(frozen=True)
class Project:
    """A folder with sls-deploy.toml and a run of it."""

    folder: Path
    """Where the commands were given."""
    run: Path
    """The run folder."""
    outcomes: dict[str, Outcome]
    """What each command said, in the order they were given."""


Program = Callable[..., Outcome]


@pytest.fixture(scope="session")
def program() -> Program:
    """Calls the program with arguments, in the folder `cwd`."""

    def call(*arguments: object, cwd: Path) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        argv = ["sls-deploy", *map(str, arguments)]
        with (
            mock.patch.object(sys, "argv", argv),
            chdir(cwd),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def photos(made_once: MadeOnce) -> Path:
    """Two real photographs to search on."""
    return made_once("photos", lambda folder: export_samples(folder, ["astronaut", "coffee"]))


@pytest.fixture(scope="session")
def pictures(made_once: MadeOnce) -> Path:
    """Two parts of another photograph to validate on."""

    def fill(folder: Path) -> None:
        cat = sample_photos()["chelsea"]
        write_image(folder / "eye.png", cat[80:160, 140:240])
        write_image(folder / "fur.png", cat[200:280, 240:340])

    return made_once("pictures", fill)


def _weights(path: Path, features: int) -> Path:
    torch.manual_seed(3)
    options = {"features": features, "blocks": 2, "scale": 2, "input_range": 1.0}
    return save_weights(path, build_model(Description("edsr", options, 2, 1.0)))


@pytest.fixture(scope="session")
def dense(made_once: MadeOnce) -> Path:
    """Weights of a small dense network."""
    name = "small.safetensors"
    return made_once("dense", lambda folder: _weights(folder / name, features=16)) / name


@pytest.fixture(scope="session")
def other_dense(made_once: MadeOnce) -> Path:
    """Weights of a smaller one."""
    name = "smaller.safetensors"
    return made_once("other", lambda folder: _weights(folder / name, features=8)) / name


@pytest.fixture(scope="session")
def project(
    made_once: MadeOnce,
    tmp_path_factory: pytest.TempPathFactory,
    program: Program,
    dense: Path,
    photos: Path,
    pictures: Path,
) -> Project:
    """Budgets 0.75 and 0.5 searched; 0.5 exported, built and validated by the short forms.

    Each process has a copy of its own: two may not work in one run.
    """

    def fill(folder: Path) -> None:
        given = ("init", "--weights", dense, "--data", photos, "--pictures", pictures)
        outcomes = {"init": program(*given, cwd=folder)}
        settings = folder / "sls-deploy.toml"
        settings.write_text(_small(settings.read_text()))
        with pytest.MonkeyPatch.context() as patch:
            few_passes(patch)
            for command in ("search", "export --budget 0.5", "build", "validate"):
                outcomes[command.split()[0]] = program(*command.split(), cwd=folder)
        told = {command: asdict(outcome) for command, outcome in outcomes.items()}
        (folder / "outcomes.json").write_text(json.dumps(told))

    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(made_once("project", fill), folder, dirs_exist_ok=True)
    told = json.loads((folder / "outcomes.json").read_text())
    outcomes = {command: Outcome(**outcome) for command, outcome in told.items()}
    return Project(folder, folder / "runs" / "small", outcomes)


def _small(settings: str) -> str:
    """Settings for a short search on small crops, and small engines."""
    for key, value in (
        ("budgets", "[0.75, 0.5]"),
        ("steps", "12"),
        ("batch", "2"),
        ("patch", "16"),
        ("crops", "16"),
        ("held_out", "2"),
        ("opt_shape", "[1, 3, 48, 48]"),
        ("max_shape", "[1, 3, 64, 64]"),
    ):
        line = rf"^{key} = .*$"
        settings, found = re.subn(line, f"{key} = {value}", settings, count=1, flags=re.M)
        assert found == 1
    return settings
