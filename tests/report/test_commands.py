"""The commands of a report, given to the program."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sls_deploy.cli.main import main
from sls_deploy.config import ExportConfig
from sls_deploy.engine.stage import build_engines
from sls_deploy.export.stage import export_onnx
from sls_deploy.report.commands import commands
from sls_deploy.report.stored import Stored, read_stored
from sls_deploy.run import Run
from sls_deploy.validate.stage import validate_budget


def stored(run: Run) -> list[Stored]:
    return [read_stored(run, budget) for budget in run.budgets("search")]


def given(run: Run) -> list[str]:
    """The commands after 'sls-deploy', without the run's path in them."""
    told = (line.replace(str(run.path), "RUN") for line in commands(run, stored(run)))
    return [line.removeprefix("sls-deploy ") for line in told]


def said(line: str) -> Any:
    """What the program answers, as JSON."""
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [*shlex.split(line), "--json"]),
        redirect_stdout(out),
        redirect_stderr(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert not ended.value.code
    return json.loads(out.getvalue())


def all_skipped(answer: Any) -> list[bool]:
    """Every 'skipped' in an answer."""
    if isinstance(answer, dict):
        own = [answer["skipped"]] if isinstance(answer.get("skipped"), bool) else []
        return own + [flag for value in answer.values() for flag in all_skipped(value)]
    if isinstance(answer, list):
        return [flag for item in answer for flag in all_skipped(item)]
    return []


def is_what_was_done(run: Run) -> None:
    """Given to the run itself, the commands find all work done: they ask for just that."""
    for line in commands(run, stored(run)):
        if not line.startswith(("sls-deploy bench", "sls-deploy report")):
            skipped = all_skipped(said(line.replace(f"{run.path}-again", str(run.path))))
            assert skipped
            assert all(skipped), line


def test_commands_tell_stage_after_stage(run: Run) -> None:
    assert given(run) == [
        "search --config RUN/config.toml --out RUN-again",
        "export RUN-again --budget 0.75,0.5",
        "build RUN-again --budget 0.5 --backend tensorrt_rtx",
        "validate RUN-again --budget 0.75,0.5",
        "bench RUN-again --budget 0.5 --shape 1x3x24x32 --repeats 3 --threads 1",
        "report RUN-again",
    ]


def test_run_that_was_only_searched_is_searched_again(made: Path) -> None:
    run = Run.open(made / "runs" / "learnt")
    assert given(run) == [
        "search --config RUN/config.toml --out RUN-again",
        "report RUN-again",
    ]


@pytest.mark.parametrize("name", ["small", "filled"])
def test_commands_ask_for_what_was_done(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs" / name, tmp_path / name)
    is_what_was_done(Run.open(tmp_path / name))


def test_settings_that_were_given_as_flags_are_told(run: Run) -> None:
    options = ExportConfig(
        precisions=("fp32",), io="uint8", static_shape=(1, 3, 32, 40), calibration_crops=2
    )
    export_onnx(run, 0.5, options)
    build = run.config.build.model_copy(
        update={
            "architectures": ("sm80", "sm89"),
            "precisions": ("fp32",),
            "io": "uint8",
            "workspace_mib": 512,
        }
    )
    build_engines(run, [0.5], build)
    validate_budget(run, 0.5, run.config.validate_.model_copy(update={"max_loss_db": 8.5}))
    told = given(run)
    assert (
        "export RUN-again --budget 0.5 --precision fp32 --io uint8 --static-shape 1x3x32x40" in told
    )
    assert (
        "build RUN-again --budget 0.5 --arch sm80,sm89 --precision fp32 --io uint8 "
        "--backend tensorrt_rtx --workspace-mib 512"
    ) in told
    assert "validate RUN-again --budget 0.5 --max-loss-db 8.5" in told
    is_what_was_done(run)


def test_sizes_of_an_engine_are_told(run: Run) -> None:
    shapes = {f"{name}_shape": (1, 3, 16, 16) for name in ("min", "opt", "max")}
    build_engines(run, [0.5], run.config.build.model_copy(update=shapes))
    assert (
        "build RUN-again --budget 0.5 --backend tensorrt_rtx --min 1x3x16x16 --opt 1x3x16x16 "
        "--max 1x3x16x16"
    ) in given(run)


def test_engines_of_several_precisions_are_one_command(run: Run) -> None:
    options = run.config.build.model_copy(update={"precisions": ("fp16", "fp32")})
    build_engines(run, [0.5], options)
    assert "build RUN-again --budget 0.5 --precision fp16,fp32 --backend tensorrt_rtx" in given(run)


def test_pictures_without_truth_are_validated_without(run: Run) -> None:
    found = stored(run)
    bare = tuple(replace(one, totals=()) for one in found[1].validations)
    told = commands(run, [found[0], replace(found[1], validations=bare)])
    assert any(line.endswith("--budget 0.5 --degradation none") for line in told)


def test_export_that_was_not_refilled_says_so(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs" / "filled", tmp_path / "filled")
    run = Run.open(tmp_path / "filled")
    options = ExportConfig(precisions=("fp32",), refill=False, calibration_crops=2)
    export_onnx(run, 0.4, options)
    assert "export RUN-again --budget 0.4 --precision fp32 --no-refill" in given(run)


def test_names_with_spaces_are_quoted(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs" / "learnt", tmp_path / "a b")
    run = Run.open(tmp_path / "a b")
    assert commands(run, [])[-1] == f"sls-deploy report '{tmp_path}/a b-again'"
