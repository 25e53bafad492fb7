from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sls_deploy.config import Config
from sls_deploy.config_file import to_toml
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic, disk_errors, hash_file, hash_json, write_json, write_text
from sls_deploy.run import Run, budget_name


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run")
    write_text(run.path / "config.toml", to_toml(Config()))
    return run


@pytest.fixture
def copy(run: Run) -> Callable[[str], bool]:
    """Does a stage that writes its input into out/a.txt; returns whether it was skipped."""

    def stage(text: str) -> bool:
        return run.stage(
            "copy", {"text": text}, lambda: [write_text(run.path / "out" / "a.txt", text)]
        )[1]

    return stage


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "a.txt", "ü")
    assert write_text(path, "second") == path
    assert path.read_text("utf-8") == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "")
        with atomic(tmp_path / "a.safetensors") as temporary:
            save_file({"a": np.zeros(3)}, temporary)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]


@pytest.mark.parametrize(
    "name",
    ["a" * 255, "ü" * 127, "→" * 85, "l\udcffatin" * 36, "." * 255, "a"],
    ids=["ascii", "two bytes", "three bytes", "no UTF-8", "dots", "short"],
)
def test_a_name_may_be_as_long_as_the_file_system_has_it(tmp_path: Path, name: str) -> None:
    with atomic(tmp_path / name) as temporary:
        assert temporary.name.startswith(".")
        assert len(temporary.name.encode()) <= 38
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def write_half(path: Path, error: BaseException) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "old")]


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(SlsError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        write_half(tmp_path / "a.txt", error)
    assert list(tmp_path.iterdir()) == []


def test_disk_errors_let_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other"), disk_errors(tmp_path):
        raise ValueError("other")


def test_unchanged_stage_is_skipped(copy: Callable[[str], bool], run: Run) -> None:
    assert copy("one") is False
    before = run.manifest["copy"]
    assert copy("one") is True
    assert run.manifest["copy"] == before
    assert before.outputs == {"out/a.txt": hash_file(run.path / "out" / "a.txt")}


def test_stage_is_done_again_when_an_input_changed(copy: Callable[[str], bool], run: Run) -> None:
    copy("one")
    assert copy("two") is False
    assert (run.path / "out" / "a.txt").read_text() == "two"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("spoilt")])
def test_stage_is_done_again_when_an_output_is_not_what_it_was(
    copy: Callable[[str], bool], run: Run, spoil: Callable[[Path], object]
) -> None:
    copy("one")
    spoil(run.path / "out" / "a.txt")
    assert copy("one") is False
    assert (run.path / "out" / "a.txt").read_text() == "one"


@pytest.fixture
def derive(run: Run) -> Callable[[], bool]:
    """Does a stage that copies source.txt into the export; returns whether it was skipped."""
    source = write_text(run.path / "source.txt", "one")
    target = run.folder("export", 0.5) / "a.txt"

    def stage() -> bool:
        def work() -> list[Path]:
            return [write_text(target, source.read_text())]

        return run.stage("export/b0.50", {}, work, reads=[source])[1]

    return stage


def test_stage_keeps_the_hash_of_what_it_read(derive: Callable[[], bool], run: Run) -> None:
    derive()
    record = run.manifest["export/b0.50"]
    assert record.reads == {"source.txt": hash_file(run.path / "source.txt")}


def test_stage_is_done_again_when_what_it_read_changed(
    derive: Callable[[], bool], run: Run
) -> None:
    first, second = derive(), derive()
    write_text(run.path / "source.txt", "two")
    assert (first, second, derive(), derive()) == (False, True, False, True)
    assert (run.folder("export", 0.5) / "a.txt").read_text() == "two"


def test_stage_that_cannot_read_its_source_is_refused(derive: Callable[[], bool], run: Run) -> None:
    (run.path / "source.txt").unlink()
    with pytest.raises(SlsError, match=r"source\.txt: cannot be read \(No such file"):
        derive()
    assert run.manifest == {}


@pytest.mark.parametrize("name", ["source.txt", "export/b0.50/a.txt"])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("spoilt")])
def test_stage_is_current_until_a_file_of_it_changes(
    derive: Callable[[], bool], run: Run, name: str, spoil: Callable[[Path], object]
) -> None:
    unknown = run.is_current("export/b0.50")
    derive()
    before = run.is_current("export/b0.50")
    folder = run.require("export", 0.5)
    spoil(run.path / name)
    assert (unknown, before, run.is_current("export/b0.50")) == (False, True, False)
    assert folder == run.folder("export", 0.5)
    with pytest.raises(SlsError, match=r"0\.5 must be exported again.*`sls-deploy export"):
        run.require("export", 0.5)


@pytest.mark.parametrize("role", ["outputs", "reads"])
@pytest.mark.parametrize("kind", ["relative", "absolute", "link"])
def test_file_outside_the_run_is_never_current(
    derive: Callable[[], bool], run: Run, role: str, kind: str
) -> None:
    derive()
    outside = write_text(run.path.parent / "outside.txt", "mine")
    (run.path / "link.txt").symlink_to(outside)
    names = {"relative": "../outside.txt", "absolute": str(outside), "link": "link.txt"}
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"]["export/b0.50"][role] = {names[kind]: hash_file(outside)}
    write_json(path, manifest)
    assert not run.is_current("export/b0.50")


def test_interrupted_stage_is_not_recorded(copy: Callable[[str], bool], run: Run) -> None:
    def work() -> list[Path]:
        write_text(run.path / "half.txt", "half")
        raise KeyboardInterrupt

    copy("one")
    with pytest.raises(KeyboardInterrupt):
        run.stage("other", {}, work)
    assert list(run.manifest) == ["copy"]


def test_record_says_how_it_was_made(copy: Callable[[str], bool], run: Run) -> None:
    copy("one")
    record = run.manifest["copy"]
    assert record.inputs == hash_json({"inputs": {"text": "one"}, "reads": {}})
    assert record.versions["torch"]
    assert record.peak_mib > 0
    assert 0 <= record.seconds < 60


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"stages": []}', '{"stages": {"a": 1}}', '{"stages": {"a": {}}}', "\xff"],
)
def test_damaged_manifest_is_refused(run: Run, text: str) -> None:
    (run.path / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(SlsError, match=r"manifest\.json: is not a manifest.*Remove the file"):
        _ = run.manifest


def test_hash_of_json_does_not_depend_on_order() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 1})


def test_hash_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"nothing: cannot be read \(No such file"):
        hash_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("budget", "name"), [(0.5, "b0.50"), (0.25, "b0.25"), (0.125, "b0.125"), (0.3, "b0.30")]
)
def test_folder_of_a_budget(run: Run, budget: float, name: str) -> None:
    assert budget_name(budget) == name
    assert run.folder("search", budget) == run.path / "search" / name


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_name_of_a_budget_gives_it_back(budget: float) -> None:
    assert float(budget_name(budget).removeprefix("b")) == budget


def test_budgets_are_those_a_stage_finished(run: Run) -> None:
    for key in ("search/b0.25", "search/b0.50", "export/b0.125", "validate/b0.30/Set5-0"):
        run.stage(key, {}, list)
    assert run.budgets("search") == [0.5, 0.25]
    assert run.budgets("export") == [0.125]
    assert run.require("search", 0.25) == run.path / "search" / "b0.25"


def test_missing_budget_names_those_that_are_there(run: Run) -> None:
    with pytest.raises(SlsError, match=r"0\.5 was not searched \(done: none\)"):
        run.require("search", 0.5)
    run.stage("export/b0.50", {}, list)
    run.stage("export/b0.25", {}, list)
    what = r"0\.4 was not exported \(done: 0\.5, 0\.25\).*`sls-deploy export --budget 0\.4`"
    with pytest.raises(SlsError, match=what):
        run.require("export", 0.4)


def test_newest_run_is_the_one_whose_settings_were_written_last(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        run = Run.create(tmp_path / name)
        path = write_text(run.path / "config.toml", to_toml(Config()))
        os.utime(path, (time.time() - age, time.time() - age))
    (tmp_path / "no run").mkdir()
    assert Run.newest(tmp_path).path == tmp_path / "new"


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no run there yet"):
        Run.newest(tmp_path / "runs")
    with pytest.raises(SlsError, match="no run there"):
        Run.open(tmp_path)


def test_run_takes_an_empty_folder_or_one_of_its_own(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty").path.is_dir()
    assert Run.create(run.path) == run


def test_run_takes_a_folder_with_nothing_but_a_lock_and_other_dot_files(tmp_path: Path) -> None:
    for name in (".lock", ".config.toml.a1b2"):
        (tmp_path / name).touch()
    assert Run.create(tmp_path).path == tmp_path


def test_run_refuses_a_file_and_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlsError, match="file: is a file"):
        Run.create(tmp_path / "file")
    with pytest.raises(SlsError, match="is a folder with other files in it"):
        Run.create(tmp_path)


def test_run_is_locked_against_other_processes_until_it_is_let_go(run: Run) -> None:
    code = (
        "import pathlib, sys; from sls_deploy.run import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.locked():
        inside = subprocess.run(command, capture_output=True, text=True, check=False)
    assert inside.stderr.rstrip().endswith("Wait for it, or use another folder.")
    assert subprocess.run(command, check=False).returncode == 0


def test_json_file_can_be_read_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": "ü"}
    assert json.loads(write_json(tmp_path / "a.json", value).read_text("utf-8")) == value


def test_a_file_that_changed_while_it_was_read_is_read_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    source, result = run.path / "source", run.path / "result"
    source.write_text("before")

    def work() -> list[Path]:
        result.write_text(source.read_text())
        source.write_text("after")
        return [result]

    run.stage("a", {}, work, [source])
    _, skipped = run.stage("a", {}, work, [source])
    assert not skipped
    assert result.read_text() == "after"
