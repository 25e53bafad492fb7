"""Bad input: one line on standard error, exit code 2, nothing written."""

from __future__ import annotations

import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

Program = Callable[..., Any]

CASES = {
    "no weights named": ("search --data {photos}", "--weights: no checkpoint was named"),
    "no such weights": ("{search} --weights none.pth", r"none\.pth: no such file"),
    "weights are a folder": ("{search} --weights empty", "empty: is a folder"),
    "weights of code": ("{search} --weights code.pth", r"code\.pth: holds .*so it was not opened"),
    "torch file of code": ("{search} --weights torch.pth", r"holds code or objects \(posix.mkdir"),
    "weights cut short": ("{search} --weights cut.safetensors", "cut.safetensors: cannot be"),
    "weights of no known network": ("{search} --weights strange.pth", r"strange\.pth: "),
    "weights of another network": ("{search} --model rlfn", "holds edsr, not rlfn"),
    "unknown network": ("{search} --model vdsr", "no network is named 'vdsr'.*edsr, carn"),
    "weights of another scale": ("{search} --scale 3", r"no weights for x3 \(there: x2\)"),
    "no photos named": ("search --weights {dense}", "--data: no photographs were named"),
    "no such photos": ("{search} --data nowhere", "nowhere: no such folder"),
    "photos are a file": ("{search} --data a_file", "a_file: is a file, not a folder"),
    "no photos in the folder": ("{search} --data empty", "empty: holds no pictures"),
    "only corrupt photos": ("{search} --data corrupt", "corrupt/.*none of 2 pictures can be used"),
    "photos smaller than a patch": ("{search} --patch 300", "512x512 is below 600 pixels"),
    "budget of nothing": ("{search} --budget 0", "--budget: '0' is not a budget.*such as 0.5"),
    "budget above everything": ("{search} --budget 1.5", "--budget: '1.5' is not a budget"),
    "budget of no number": ("{search} --budget half", "--budget: 'half' is not a budget"),
    "one bad budget of two": ("{search} --budget 0.5,nan", "--budget: '0.5,nan' is not a budget"),
    "budget out of reach": ("{search} --budget 0.01", r"0\.01 is below .* 2:4 .*0\.5 of macs"),
    "unknown pattern": ("{search} --pattern 3:4", "search.pattern is '3:4': must be 2:4, n:4"),
    "no steps": ("{search} --steps 0", "search.steps is 0: .*greater than or equal to 1"),
    "endless minutes": ("{search} --minutes inf", "search.minutes is inf: .*finite"),
    "steps of no number": ("{search} --steps many", "'--steps'"),
    "out is a file": ("{search} --out a_file", "a_file: is a file"),
    "out below a file": ("{search} --out a_file/run", "a_file/run: cannot be written"),
    "out holds other files": ("{search} --out corrupt", "corrupt: is a folder with other files"),
    "run of another model": ("{search} --out {run}", "holds a search with model.*--out"),
    "unknown option": ("search --bugdet 0.5", "No such option: --bugdet"),
    "option without its value": ("search --budget", "'--budget' requires an argument"),
    "unknown command": ("prune", "No such command 'prune'"),
    "one argument too many": ("export {run} {run}", "unexpected extra argument"),
    "no settings": ("search --config nowhere.toml", "nowhere.toml: no such file.*init"),
    "settings are a folder": ("search --config empty", "empty: cannot be read as TOML"),
    "unknown setting": ("search --config unknown.toml", "unknown.toml: .*setting search.stepz"),
    "setting of another type": ("search --config type.toml", "type.toml: search.steps is 'many'"),
    "broken settings": ("search --config broken.toml", "broken.toml: cannot be read as TOML"),
    "no run yet": ("export", "runs: no run there yet"),
    "no such run": ("export nowhere", "nowhere: no run there"),
    "budget not searched": ("export {run} --budget 0.6", r"not searched \(done: 0\.75, 0\.5\)"),
    "unknown precision": ("export {run} --precision int4", "'int4': .*'bf16' or 'int8'"),
    "budget not exported": ("build {run} --budget 0.75", r"0\.75 was not exported \(done: 0\.5\)"),
    "unknown GPU": ("build {run} --arch sm12", "'sm12': must be of sm80, sm86, sm87, sm89"),
    "validation not exported": ("validate {run} --budget 0.75", "0.75 was not exported"),
    "no such pictures": ("validate {run} --data nowhere", "nowhere: no such folder"),
    "corrupt pictures": ("validate {run} --data corrupt", "corrupt/.*cannot be read as a picture"),
    "limit of no number": ("validate {run} --max-loss-db nan", "max_loss_db is nan: .*finite"),
    "run without pictures": ("run --weights {dense}", "--pictures: no pictures were named"),
    "run with no such pictures": (
        "run --weights {dense} --data {photos} --pictures nowhere", "nowhere: no such folder"
    ),
    "weights of another kind": ("train --data {photos} --out a.pth", "is not a .safetensors file"),
    "argument without value": ("train --data {photos} --out a.safetensors --set blocks", "--set"),
    "training without photos": ("train --out a.safetensors", "--data: no photographs were named"),
}  # fmt: skip
"""By what is wrong: arguments, and what the line says."""


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("the code ran",)


@pytest.fixture
def folder(tmp_path: Path, dense: Path) -> Path:
    """A folder of things that are no good."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "corrupt" / "b.jpg").write_text("no picture")
    (tmp_path / "a_file").touch()
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code()))
    torch.save({"head.weight": Code()}, tmp_path / "torch.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "strange.pth")
    (tmp_path / "cut.safetensors").write_bytes(dense.read_bytes()[:-100])
    (tmp_path / "unknown.toml").write_text("[search]\nstepz = 3\n")
    (tmp_path / "type.toml").write_text('[search]\nsteps = "many"\n')
    (tmp_path / "broken.toml").write_text("[search\n")
    return tmp_path


def files(*folders: Path) -> dict[Path, bytes | None]:
    """Everything below the folders."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


def check_refused(outcome: Any, expected: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = [line for line in outcome.err.splitlines() if not re.match(r"\w+ .*\d+/\d+", line)]
    assert line.startswith("error: ")
    assert re.search(expected, line)


@pytest.mark.parametrize(("arguments", "expected"), CASES.values(), ids=list(CASES))
def test_bad_input_is_refused(
    arguments: str,
    expected: str,
    program: Program,
    folder: Path,
    project: Any,
    dense: Path,
    other_dense: Path,
    photos: Path,
) -> None:
    weights = other_dense if "{run}" in arguments else dense
    search = f"search --weights {weights} --data {photos} --steps 2 --batch 1 --patch 16"
    given = arguments.format(search=search, dense=dense, photos=photos, run=project.run)
    before = files(folder, project.run)
    check_refused(program(*given.split(), cwd=folder), expected)
    assert files(folder, project.run) == before


def test_validation_without_pictures_is_refused(
    program: Program, project: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(project.run, tmp_path / "run")
    settings = run / "config.toml"
    settings.write_text(re.sub(r"^pictures = .*\n", "", settings.read_text(), flags=re.MULTILINE))
    before = files(run)
    check_refused(program("validate", run, cwd=tmp_path), "--data: no pictures were named")
    assert files(run) == before


def test_damaged_manifest_is_refused(program: Program, project: Any, tmp_path: Path) -> None:
    run = shutil.copytree(project.run, tmp_path / "run")
    (run / "manifest.json").write_text('{"stages": {"search/b0.50": {}}}')
    check_refused(program("export", run, cwd=tmp_path), r"manifest\.json: is not a manifest")


def test_run_in_use_is_refused(program: Program, project: Any, tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from sls_deploy.run import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).locked(): print('locked', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(project.run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        outcome = program("export", project.run, cwd=tmp_path)
        other.communicate("\n")
    check_refused(outcome, "another process works in this run")


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("command", "size"),
    [
        ("export --budget 0.75", 20_000),
        ("build --arch sm80", 100_000),
        ("validate --max-loss-db 9", 100),
        ("init --force", 100),
    ],
)
def test_full_disk_keeps_what_was_finished(
    command: str, size: int, program: Program, project: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(project.run, tmp_path / "runs" / "small")
    (tmp_path / "sls-deploy.toml").write_text("mine")
    before = files(tmp_path)
    with no_file_above(size):
        outcome = program(*command.split(), cwd=tmp_path)
    check_refused(outcome, r"\(File too large\)")
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert [path for path in after.keys() - before.keys() if path.is_file()] == []
    assert run.is_dir()


def test_search_on_a_full_disk_goes_on_later(
    program: Program, dense: Path, photos: Path, tmp_path: Path
) -> None:
    flags = ("--steps", 2, "--batch", 1, "--patch", 16, "--crops", 8)
    command = ("search", "--weights", dense, "--data", photos, *flags)
    with no_file_above(20_000):
        outcome = program(*command, cwd=tmp_path)
    check_refused(outcome, r"checkpoint/.*cannot be written \(File too large\)")
    assert program(*command, cwd=tmp_path).code == 0


@pytest.mark.parametrize("command", ["init", "--help"])
def test_full_disk_under_standard_output(command: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sls_deploy.cli.main", command],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"
