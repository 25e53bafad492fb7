"""The run's report goes with a package only while it tells of what is packed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from sls_deploy.package.reported import why_outdated
from sls_deploy.package.stage import package_run
from sls_deploy.report.schema import Done
from sls_deploy.run import Run
from tests.package.conftest import change_engine

KEY = "validate/b0.50/photos-01234567"


@pytest.fixture
def reported(small: Run, tmp_path: Path) -> Run:
    """A run with a validation of budget 0.5 and a report; no engine."""
    shutil.copytree(small.path, tmp_path / "runs" / "Small_1")
    run = Run.open(tmp_path / "runs" / "Small_1")
    validate(run)
    write_report(run)
    return run


def validate(run: Run, figures: str = "{}") -> None:
    """Have the run hold figures, as the stage would write and record them."""
    path = run.folder("validation", 0.5) / f"{KEY.rpartition('/')[2]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(figures)
    graph = run.folder("export", 0.5) / "model.fp16.onnx"
    run.record(KEY, {}, run.hashes([graph]), [path], 1.0)


def write_report(run: Run) -> Path:
    """Have the run hold a report, of which only what it was made from is filled in."""
    done = [
        Done(key, record.seconds, record.peak_mib, record.machine, record.versions, record.outputs)
        for key, record in run.manifest.items()
    ]
    path = run.path / "validation" / "report.json"
    path.write_text(json.dumps({"done": [asdict(one) for one in done]}))
    path.with_suffix(".html").write_text("<html>")
    return path


def test_a_current_report_is_packed(reported: Run, tmp_path: Path) -> None:
    result = package_run(reported, [0.5], "folder", tmp_path / "out")
    assert (result.out / "report.html").read_text() == "<html>"
    assert "done" in json.loads((result.out / "report.json").read_text())
    assert set(result.left_out) == {"engines"}
    assert "`sls-deploy build --budget 0.5 --precision fp16`" in result.left_out["engines"]
    assert not (result.out / "run_tensorrt.py").exists()


def test_a_report_of_a_validation_whose_files_have_changed_is_left_out(
    reported: Run, tmp_path: Path
) -> None:
    (reported.path / next(iter(reported.manifest[KEY].outputs))).write_text("[]")
    result = package_run(reported, [0.5], "folder", tmp_path / "out")
    for name in ("report.html", "report.json"):
        assert result.left_out[name].startswith(f"tells of {KEY}, and what that is made from has ")
        assert "`sls-deploy validate` and `sls-deploy report`" in result.left_out[name]
        assert f"- {name}: tells of" in (result.out / "README.md").read_text()
        assert not (result.out / name).exists()


def test_a_report_from_before_a_validation_or_another_export_is_left_out(
    reported: Run, tmp_path: Path
) -> None:
    validate(reported, "[]")
    result = package_run(reported, [0.5], "folder", tmp_path / "out")
    assert result.left_out["report.html"].startswith(f"was written before {KEY} was done")
    write_report(reported)
    graph = reported.folder("export", 0.5) / "model.fp32.onnx"
    reported.record("export/b0.50", {}, {}, [graph], 1.0)
    result = package_run(reported, [0.5], "folder", tmp_path / "again")
    assert result.left_out["report.json"].startswith("was written before export/b0.50 was done")


def test_a_report_that_does_not_know_an_engine_is_left_out(copy: Run, tmp_path: Path) -> None:
    write = copy.path / "validation"
    write.mkdir()
    write_report(copy)
    assert "report.html" not in package_run(copy, [0.5], "folder", tmp_path / "one").left_out
    change_engine(copy, new="sm80-fp16", architecture="sm80")
    result = package_run(copy, [0.5], "folder", tmp_path / "two")
    why = "was written before engines/b0.50/sm80-fp16 was done: `sls-deploy report` writes it anew"
    assert result.left_out["report.html"] == why


def test_other_budgets_do_not_matter(reported: Run) -> None:
    report = reported.path / "validation" / "report.json"
    (reported.folder("export", 0.75) / "model.fp32.onnx").write_bytes(b"spoilt")
    assert why_outdated(reported, 0.5, report) == ""
    assert why_outdated(reported, 0.75, report).startswith("tells of export/b0.75, ")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"done": 3}', '{"done": [{"key": 1}]}'])
def test_a_report_that_does_not_say_what_it_was_made_from_is_left_out(
    reported: Run, text: str
) -> None:
    report = reported.path / "validation" / "report.json"
    report.write_text(text)
    why = "cannot be read: `sls-deploy report` writes it anew"
    assert why_outdated(reported, 0.5, report) == why
    report.unlink()
    assert why_outdated(reported, 0.5, report) == why
