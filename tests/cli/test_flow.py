"""The short forms, one after the other, as a new user gives them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.config import Config
from sls_deploy.config_file import read_config
from sls_deploy.data.images import read_image
from sls_deploy.files import hash_file
from sls_deploy.models.model import load_model
from sls_deploy.run import Run

Program = Callable[..., Any]


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "report.json", "report.html")
    }


def copy_of(project: Any, folder: Path) -> Path:
    """A copy of the project's run that a test may change."""
    return shutil.copytree(project.run, folder / "runs" / "small")


def test_every_command_of_the_flow_succeeds(project: Any) -> None:
    assert {
        command: outcome.code for command, outcome in project.outcomes.items()
    } == dict.fromkeys(("init", "search", "export", "build", "validate"), 0)
    assert "error" not in "".join(outcome.err for outcome in project.outcomes.values())


def test_search_prints_and_writes_what_it_reached(project: Any) -> None:
    for budget in ("0.75", "0.50"):
        ratios = json.loads((project.run / f"search/b{budget}/ratios.json").read_text())
        row = re.search(rf"^{float(budget):g} .*$", project.outcomes["search"].out, re.MULTILINE)
        assert row is not None
        figures = [f"{ratios['cost']:.4f}", f"{ratios['network_cost']:.4f}"]
        figures += [f"{ratios['dense_psnr']:.2f}", f"{ratios['psnr']:.2f}", "12"]
        assert row[0].split()[1:6] == figures
        assert ratios["cost"] <= float(budget)


def test_run_keeps_the_settings_with_absolute_paths(
    project: Any, dense: Path, pictures: Path
) -> None:
    config = Run.open(project.run).config
    assert (config.model.weights, config.validate_.pictures) == (dense, pictures)
    assert (config.model.name, config.model.scale, config.search.steps) == ("edsr", 2, 12)


def test_export_and_build_take_the_budget_asked_for(project: Any) -> None:
    run = Run.open(project.run)
    assert (run.budgets("search"), run.budgets("export")) == ([0.75, 0.5], [0.5])
    written = {path.name for path in (project.run / "engines" / "b0.50").iterdir()}
    assert written == {"sm86-fp16.plan", "sm86-fp16.json"}


def test_proof_covers_the_layers_that_the_search_pruned(project: Any) -> None:
    ratios = json.loads((project.run / "search/b0.50/ratios.json").read_text())
    kept = {layer["name"] for layer in ratios["layers"] if layer["kept"] < layer["of"]}
    proof = json.loads((project.run / "export/b0.50/proof.json").read_text())
    layers = proof["files"]["fp16"]["layers"]
    pruned = [layer for layer in layers if layer["pruned"]]
    assert {layer["name"] for layer in pruned} == kept != set()
    assert all(layer["legal_2_4"] for layer in pruned)
    assert f"{len(kept)} of {len(layers)} layers pruned" in project.outcomes["export"].out


def test_table_report_and_json_agree(project: Any, program: Program) -> None:
    report = json.loads((project.run / "validation/report.json").read_text())
    (validation,) = next(b for b in report["budgets"] if b["budget"] == 0.5)["validations"]
    again = program("validate", "--json", cwd=project.folder)
    (result,) = json.loads(again.out)
    assert (again.code, again.err, result["skipped"]) == (0, "", True)
    assert result["validation"] == validation
    for stage in validation["stages"]:
        name, quality = stage["stage"]["name"], stage["quality"]
        row = re.search(rf"^{name} .*$", project.outcomes["validate"].out, re.MULTILINE)
        assert row is not None
        assert f"{quality['psnr_y']:.3f}" in row[0]
        assert f"{quality['ssim_y']:.4f}" in row[0]
        mean = sum(picture["quality"]["psnr_y"] for picture in stage["pictures"]) / 2
        assert quality["psnr_y"] == pytest.approx(mean, abs=1e-12)
    names = [stage["stage"]["name"] for stage in validation["stages"]]
    assert names[:4] == ["dense PyTorch", "sparse PyTorch", "ONNX fp32", "ONNX fp16"]


def test_validation_leaves_crops_and_a_page(project: Any) -> None:
    report = json.loads((project.run / "validation/report.json").read_text())
    (validation,) = next(b for b in report["budgets"] if b["budget"] == 0.5)["validations"]
    for crop in validation["crops"]:
        for file in crop["files"].values():
            assert read_image(project.run / file).shape == (crop["height"], crop["width"], 3)
    page = (project.run / "validation/report.html").read_text()
    assert "runs/small/validation/report.html" in project.outcomes["validate"].out
    assert page.startswith("<!doctype html>")
    assert len(validation["crops"]) == 2


def test_report_is_written_anew(project: Any, program: Program, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    (run / "validation/report.html").unlink()
    outcome = program("report", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("report: runs/small/validation/report.html\n")
    assert (run / "validation/report.html").is_file()


def test_two_runs_are_compared(project: Any, program: Program, tmp_path: Path) -> None:
    copy_of(project, tmp_path)
    other = tmp_path / "runs" / "other"
    shutil.copytree(project.run, other)
    outcome = program("report", "runs/small", "runs/other", cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "comparison.html").is_file()
    assert outcome.out.endswith("comparison: comparison.html\n")


@pytest.mark.parametrize("command", ["search", "export --budget 0.5", "build"])
def test_unchanged_stage_is_skipped_and_json_stands_alone(
    project: Any, program: Program, command: str
) -> None:
    before = files(project.run)
    outcome = program(*command.split(), "--json", cwd=project.folder)
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    rows = result["budgets"] if command == "search" else result
    assert rows
    assert all(row["skipped"] for row in rows)
    assert files(project.run) == before


def test_run_does_only_what_is_left(project: Any, program: Program, tmp_path: Path) -> None:
    run = copy_of(project, tmp_path)
    before = files(run / "search") | files(run / "export") | files(run / "engines")
    outcome = program("run", "--config", project.folder / "sls-deploy.toml", "--json", cwd=tmp_path)
    result = json.loads(outcome.out)
    assert outcome.code == 0
    assert [row["skipped"] for row in result["search"]["budgets"]] == [True, True]
    for stage in ("export", "build", "validate"):
        assert [row["skipped"] for row in result[stage]] == [False, True]
    after = files(run / "search") | files(run / "export") | files(run / "engines")
    assert before.items() <= after.items()
    assert "export/b0.75" in outcome.out


def test_failed_gate_names_the_culprit_and_keeps_the_figures(
    project: Any, program: Program, tmp_path: Path
) -> None:
    run = copy_of(project, tmp_path)
    settings = run / "config.toml"
    settings.write_text(settings.read_text().replace("fp16_db = 50.0", "fp16_db = 200.0"))
    outcome = program("validate", cwd=tmp_path)
    report = json.loads((run / "validation/report.json").read_text())
    (validation,) = next(b for b in report["budgets"] if b["budget"] == 0.5)["validations"]
    (gate,) = [gate for gate in validation["gates"] if not gate["passed"]]
    culprit = gate["culprit"]
    line = (
        f"ONNX fp16, PSNR to PyTorch: {gate['value']:.3f} dB, limit 200 "
        f"(validate.min_parity_fp16_db); worst on {culprit['picture']}; by fp16; "
        f"{culprit['finding']}"
    )
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == f"error: budget 0.5: {line}"
    assert f"FAILED {line}\n" in outcome.out
    assert culprit["picture"] in ("eye.png", "fur.png")
    assert "layer by layer none of" in culprit["finding"]  # its values agree: the limit is absurd
    assert culprit["layer"] == ""
    assert validation["passed"] is False


def test_newest_run_is_the_one_searched_last(
    project: Any, program: Program, other_dense: Path, tmp_path: Path
) -> None:
    copy_of(project, tmp_path)
    flags = ("--weights", other_dense, "--budget", "0.5", "--steps", "2")
    settings = project.folder / "sls-deploy.toml"
    searched = program("search", *flags, "--config", settings, "--json", cwd=tmp_path)
    exported = program("export", "--precision", "fp32", "--json", cwd=tmp_path)
    assert json.loads(searched.out)["run"] == "runs/smaller"
    files = json.loads(exported.out)[0]["precisions"]
    assert {name: entry["file"] for name, entry in files.items()} == {
        "fp32": "runs/smaller/export/b0.50/model.fp32.onnx"
    }


def test_init_writes_the_defaults_with_comments(program: Program, tmp_path: Path) -> None:
    outcome = program("init", cwd=tmp_path)
    settings = tmp_path / "sls-deploy.toml"
    assert outcome.code == 0
    assert "# Folder of photographs." in settings.read_text().splitlines()
    assert read_config(settings) == Config()


def test_init_replaces_only_by_force(program: Program, tmp_path: Path) -> None:
    settings = tmp_path / "sls-deploy.toml"
    settings.write_text("mine")
    refused = program("init", cwd=tmp_path)
    assert (refused.code, settings.read_text()) == (2, "mine")
    assert "--force" in refused.err
    assert program("init", "--force", "--model", "rlfn", cwd=tmp_path).code == 0
    assert read_config(settings).model.name == "rlfn"


def test_trained_network_can_be_searched(program: Program, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    options = ("--set", "features=8", "--set", "blocks=1")
    length = ("--steps", 2, "--batch", 1, "--patch", 16)
    outcome = program(
        "train", "--data", photos, "--out", out, *options, *length, "--json", cwd=tmp_path
    )
    assert json.loads(outcome.out)["weights"] == str(out)
    assert load_model(out).description.options["features"] == 8
