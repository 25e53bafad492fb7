"""A run with two budgets and engines, and packages of it."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.manifest import read_manifest, write_manifest
from sls_deploy.engine.stage import build_engines, engine_key
from sls_deploy.package.stage import package_run
from sls_deploy.run import Run
from tests.package.networks import BUILD, in_bytes, make_run, network

Call = Callable[..., str]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Budget 0.5 in two precisions, also for bytes, and budget 0.75 in one; no engine."""
    half = network("fp16")
    models = {
        0.75: {"model.fp32.onnx": network("fp32", seed=1)},
        0.5: {
            "model.fp16.onnx": half,
            "model.fp32.onnx": network("fp32"),
            "model.fp16.uint8.onnx": in_bytes(half),
        },
    }
    return make_run(tmp_path_factory.mktemp("runs") / "Small_1", models)


@pytest.fixture(scope="session")
def built(small: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with an engine of budget 0.5 in fp16."""
    if BACKENDS["tensorrt_rtx"].load() is None:
        pytest.skip("needs tensorrt_rtx (extra 'cpu')")
    path = tmp_path_factory.mktemp("built") / "Small_1"
    shutil.copytree(small.path, path)
    run = Run.open(path)
    build_engines(run, [0.5], BUILD)
    return run


@pytest.fixture(scope="session")
def with_engine(built: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Budget 0.5 as a folder with an engine."""
    out = tmp_path_factory.mktemp("engine") / "out"
    package_run(built, [0.5], "folder", out)
    return out


@pytest.fixture
def copy(built: Run, tmp_path: Path) -> Run:
    """A copy of that run to spoil."""
    shutil.copytree(built.path, tmp_path / "runs" / "Small_1")
    return Run.open(tmp_path / "runs" / "Small_1")


def change_engine(run: Run, name: str = "sm86-fp16", new: str = "", **known: Any) -> Path:
    """Have the run's engine, or a copy of it, described otherwise, as if it had been built so."""
    plan = run.folder("engines", 0.5) / f"{name}.plan"
    manifest = read_manifest(plan.with_suffix(".json"))
    target = plan.with_name(f"{new or name}.plan")
    if target != plan:
        shutil.copy(plan, target)
    written = write_manifest(
        target.with_suffix(".json"), replace(manifest, plan=target.name, **known)
    )
    graph = run.hashes([run.folder("export", 0.5) / manifest.onnx])
    run.record(engine_key(0.5, target), {}, graph, [target, written], 1.0)
    return target


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a script in this process; returns what it ended with, '' if all went well."""

    def call(path: Path, *arguments: object) -> str:
        argv = [str(path), *map(str, arguments)]
        hook = mock.patch.object(sys, "excepthook", sys.excepthook)
        with mock.patch.object(sys, "argv", argv), hook:
            try:
                _as_main(path)
            except SystemExit as ended:
                return str(ended.code)
        return ""

    return call


def _as_main(path: Path) -> None:
    """Run a script; what it does not catch goes to its own hook, as the interpreter does it."""
    theirs = sys.excepthook
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Exception as error:
        if sys.excepthook is theirs:
            raise
        sys.excepthook(type(error), error, None)
