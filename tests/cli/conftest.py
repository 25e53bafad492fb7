"""The program in process, and one small project that went through every command once."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch

from sls_deploy.cli.main import main
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import export_samples, sample_photos
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights


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
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real photographs to search on."""
    folder = tmp_path_factory.mktemp("photos")
    export_samples(folder, ["astronaut", "coffee"])
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of another photograph to validate on."""
    folder = tmp_path_factory.mktemp("pictures")
    cat = sample_photos()["chelsea"]
    write_image(folder / "eye.png", cat[80:160, 140:240])
    write_image(folder / "fur.png", cat[200:280, 240:340])
    return folder


def _weights(path: Path, features: int) -> Path:
    torch.manual_seed(3)
    options = {"features": features, "blocks": 2, "scale": 2, "input_range": 1.0}
    return save_weights(path, build_model(Description("edsr", options, 2, 1.0)))


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small dense network."""
    return _weights(tmp_path_factory.mktemp("dense") / "small.safetensors", features=16)


@pytest.fixture(scope="session")
def other_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a smaller one."""
    return _weights(tmp_path_factory.mktemp("other") / "smaller.safetensors", features=8)


@pytest.fixture(scope="session")
def project(
    tmp_path_factory: pytest.TempPathFactory,
    program: Program,
    dense: Path,
    photos: Path,
    pictures: Path,
) -> Project:
    """Budgets 0.75 and 0.5 searched; 0.5 exported, built and validated by the short forms."""
    folder = tmp_path_factory.mktemp("project")
    outcomes = {
        "init": program(
            "init", "--weights", dense, "--data", photos, "--pictures", pictures, cwd=folder
        )
    }
    settings = folder / "sls-deploy.toml"
    text = settings.read_text()
    for key, value in (
        ("budgets", "[0.75, 0.5]"),
        ("steps", "12"),
        ("batch", "2"),
        ("patch", "16"),
        ("held_out", "2"),
        ("opt_shape", "[1, 3, 48, 48]"),
        ("max_shape", "[1, 3, 64, 64]"),
    ):
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.M)
        assert found == 1
    settings.write_text(text)
    for command in ("search", "export --budget 0.5", "build", "validate"):
        outcomes[command.split()[0]] = program(*command.split(), cwd=folder)
    return Project(folder, folder / "runs" / "small", outcomes)
