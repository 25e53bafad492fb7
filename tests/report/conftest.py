from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sls_deploy.report.gather import gather_report
from sls_deploy.report.schema import RunReport
from sls_deploy.run import Run
from tests.conftest import MadeOnce, few_passes
from tests.report.runs import make_runs


@pytest.fixture(scope="session")
def made(made_once: MadeOnce) -> Path:
    """Folder with runs/small, filled and learnt and what they were made from; not to be changed."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            few_passes(patch)
            make_runs(folder)

    return made_once("report", fill)


@pytest.fixture(scope="session")
def small(made: Path) -> RunReport:
    """The report of a run that went all the way."""
    return gather_report(Run.open(made / "runs" / "small"))


@pytest.fixture(scope="session")
def filled(made: Path) -> RunReport:
    """The report of a run whose layers were filled up to N = M/2."""
    return gather_report(Run.open(made / "runs" / "filled"))


@pytest.fixture(scope="session")
def learnt(made: Path) -> RunReport:
    """The report of a run that was only searched."""
    return gather_report(Run.open(made / "runs" / "learnt"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy of runs/small that may be changed, with no other run beside it."""
    shutil.copytree(made / "runs" / "small", tmp_path / "runs" / "small")
    return Run.open(tmp_path / "runs" / "small")
