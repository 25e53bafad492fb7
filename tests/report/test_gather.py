from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sls_deploy.config import Config, ExportConfig
from sls_deploy.config_file import to_toml
from sls_deploy.engine.manifest import read_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import hash_file, write_json, write_text
from sls_deploy.report.gather import gather_report
from sls_deploy.report.schema import RunReport
from sls_deploy.report.verdict import verdict, with_interval
from sls_deploy.run import Run

PLAN = "engines/b0.50/sm86-fp16"


def only(run: Run, pattern: str) -> Path:
    (path,) = run.path.glob(pattern)
    return path


def test_report_holds_every_stage_of_every_budget(small: RunReport) -> None:
    whole, half = small.budgets
    assert (whole.budget, half.budget) == (0.75, 0.5)
    assert small.passed
    for budget in small.budgets:
        (validation,) = budget.validations
        assert (validation.pictures, validation.budget) == (3, budget.budget)
    assert (len(whole.engines), len(half.engines)) == (0, 1)
    assert (len(whole.benches), len(half.benches)) == (0, 1)
    assert [done.key for done in small.done][:2] == ["search/b0.75", "search/b0.50"]


def test_verdict_tells_what_each_budget_keeps_and_loses(small: RunReport) -> None:
    told = verdict(small.budgets, [])
    number = sum(len(one.validations[0].gates) for one in small.budgets)
    assert told.startswith(f"All {number} gates passed: at budget 0.75 the network keeps ")
    for budget in small.budgets:
        worst = max(budget.validations[0].totals, key=lambda loss: loss.mean_db)
        amount = with_interval(worst.mean_db, worst.low_db, worst.high_db)
        assert f"{amount} on pictures as {worst.stage}" in told
    assert told.endswith("; evidence: no engine at 0.75, L1 at 0.5.")


def test_network_is_that_of_the_checkpoint(small: RunReport, made: Path) -> None:
    network = small.network
    assert (network.name, network.weights, network.scale) == ("edsr", "dense.safetensors", 2)
    assert network.sha256 == hash_file(made / "dense.safetensors")


def test_engine_is_what_its_manifest_says(small: RunReport, made: Path) -> None:
    manifest = read_manifest(made / "runs" / "small" / f"{PLAN}.json")
    (engine,) = small.budgets[1].engines
    assert (engine.name, engine.sha256) == ("TensorRT sm86-fp16", manifest.plan_sha256)
    assert (engine.level, engine.statement) == (
        manifest.evidence.level,
        manifest.evidence.statement,
    )


def test_level_is_the_highest_of_the_engines(small: RunReport) -> None:
    assert [budget.level for budget in small.budgets] == ["none", "L1"]


def test_run_that_was_only_searched_has_a_report(learnt: RunReport) -> None:
    (budget,) = learnt.budgets
    assert (learnt.passed, learnt.curves) == (None, ())
    assert (budget.engines, budget.validations, budget.benches) == ((), (), ())
    assert {layer.eligible for layer in budget.layers} == {None}
    assert learnt.verdict.startswith("Not validated yet: at budget 0.5 the network keeps")


def test_run_without_a_search_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "config.toml", to_toml(Config()))
    with pytest.raises(SlsError, match="nothing was searched yet"):
        gather_report(Run.open(tmp_path))


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("export/b0.50/proof.json", "the export of budget 0.5"),
        (f"{PLAN}.plan", "the engine sm86-fp16 of budget 0.5"),
        (f"{PLAN}.json", "the engine sm86-fp16 of budget 0.5"),
        ("validation/b0.50/*.json", "the validation of budget 0.5 on pictures"),
        ("bench/b0.50/*.json", "the timing of budget 0.5"),
    ],
)
def test_what_is_missing_is_left_out_and_named(run: Run, missing: str, told: str) -> None:
    only(run, missing).unlink()
    assert told in gather_report(run).verdict.partition("To be done again")[2]


def test_figures_that_are_missing_are_not_measured(run: Run) -> None:
    only(run, "bench/b0.50/*.json").unlink()
    shutil.rmtree(run.path / "validation" / "b0.50")
    half = gather_report(run).budgets[1]
    assert (half.benches, half.validations) == ((), ())
    assert "measured" not in {cost.model for cost in half.costs}


@pytest.mark.parametrize(
    "damaged",
    [
        "search/b0.50/ratios.json",
        "search/b0.50/history.json",
        "export/b0.50/proof.json",
        f"{PLAN}.json",
        f"{PLAN}.gain.json",
        "validation/b0.50/pictures-*.json",
        "bench/b0.50/*.json",
    ],
)
def test_damaged_file_is_named(run: Run, damaged: str) -> None:
    path = run.path / damaged if "*" not in damaged else only(run, damaged)
    path.write_text('{"a": ')
    with pytest.raises(SlsError) as error:
        gather_report(run)
    assert error.value.where == str(path)
    assert error.value.fix


def test_changed_weights_of_the_search_are_refused(run: Run) -> None:
    with (run.path / "search/b0.50/weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SlsError, match=r"budget 0\.5 must be searched again"):
        gather_report(run)


def test_another_export_leaves_out_what_was_made_from_the_old_one(run: Run) -> None:
    timing = only(run, "bench/b0.50/*.json").stem
    export_onnx(run, 0.5, ExportConfig(precisions=("fp32",), calibration_crops=2))
    report = gather_report(run)
    half = report.budgets[1]
    assert (half.engines, half.validations, half.level) == ((), (), "none")
    assert report.verdict.endswith(
        "To be done again, as it no longer holds: the engine sm86-fp16 of budget 0.5, the "
        f"validation of budget 0.5 on pictures and the timing of budget 0.5, {timing}."
    )


@pytest.mark.parametrize("path", ["validation/b0.50/*.json", "export/b0.50/proof.json"])
def test_older_form_is_left_out_and_named(run: Run, path: str) -> None:
    found = only(run, path)
    old = json.loads(found.read_text())
    for key in ("protocol", "files"):
        old.pop(key, None)
    write_json(found, old)
    name = found.relative_to(run.path)
    key = "export/b0.50" if "export" in path else f"validate/b0.50/{name.stem}"
    run.record(key, {}, {}, [found], seconds=1)
    assert "To be done again" in gather_report(run).verdict


def test_search_of_another_version_is_refused(run: Run) -> None:
    path = run.path / "search/b0.50/ratios.json"
    old = json.loads(path.read_text())
    del old["costs"]
    write_json(path, old)
    outputs = [path.with_name(name) for name in ("weights.safetensors", "history.json")]
    run.record("search/b0.50", {}, {}, [path, *outputs], seconds=1)
    with pytest.raises(SlsError, match=r"ratios\.json: is of another version .*new folder"):
        gather_report(run)
