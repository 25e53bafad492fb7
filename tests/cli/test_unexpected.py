from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.cli.main import main

Program = Callable[..., Any]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search with a bug."""

    def search_budgets(*_: object) -> None:
        raise RuntimeError("two\n  lines [red]")

    monkeypatch.setattr("sls_deploy.search.stage.search_budgets", search_budgets)


@pytest.mark.usefixtures("broken")
def test_bug_is_one_line_and_an_exit_code_of_its_own(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLS_DEPLOY_DEBUG", raising=False)
    outcome = program("search", cwd=tmp_path)
    told = "SLS_DEPLOY_DEBUG=1 shows where; please report it."
    assert (outcome.code, outcome.out) == (70, "")
    assert outcome.err == f"error: unexpected: two lines [red]. {told}\n"


@pytest.mark.usefixtures("broken")
def test_bug_shows_where_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLS_DEPLOY_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["sls-deploy", "search"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="two"):
        main()
