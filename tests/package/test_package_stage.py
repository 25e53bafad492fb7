"""Whole packages, made from a run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper
from typer.testing import CliRunner

from sls_deploy.adapt.adaptation import Adaptation, Candidate, write_adaptation
from sls_deploy.adapt.tradeoff import EXPONENT
from sls_deploy.engine.manifest import read_manifest
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.package.stage import PackageOptions, PackageResult, package_run
from sls_deploy.package.triton_schema import read_config
from sls_deploy.run import Run
from sls_deploy.runtime.onnxruntime import OnnxRunner
from tests.package.conftest import change_engine
from tests.package.networks import make_run, network

FOLDER = ["README.md", "SHA256SUMS", "model.fp16.onnx", "package.json", "run_onnxruntime.py",
          "run_tensorrt.py", "sm86-fp16.json", "sm86-fp16.plan"]  # fmt: skip
MODEL = "small-1-b0-50"
CONFIG = f"{MODEL}/config.pbtxt"


def names(result: PackageResult) -> list[str]:
    found = sorted(
        path.relative_to(result.out).as_posix() for path in result.out.rglob("*") if path.is_file()
    )
    assert [file.name for file in result.files] == found
    return found


def test_a_folder_holds_graph_engine_scripts_and_what_is_known(built: Run, tmp_path: Path) -> None:
    result = package_run(built, [0.5], "folder", tmp_path / "out")
    assert names(result) == FOLDER
    for file in result.files:
        path = result.out / file.name
        assert (file.bytes, file.sha256) == (path.stat().st_size, hash_file(path))
    subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],  # noqa: S607
        cwd=result.out,
        capture_output=True,
        check=True,
    )
    facts = json.loads((result.out / "package.json").read_text())
    graph = built.folder("export", 0.5) / "model.fp16.onnx"
    assert facts["onnx_sha256"] == hash_file(graph)
    assert (facts["scale"], facts["least"], facts["multiple"]) == (2, [8, 8], 4)
    manifest = read_manifest(result.out / "sm86-fp16.json")
    assert manifest.plan_sha256 == hash_file(result.out / "sm86-fp16.plan")
    readme = (result.out / "README.md").read_text()
    version = manifest.backend_version
    assert readme.startswith("# edsr x2, budget 0.5, fp16\n")
    assert f"pip install numpy tensorrt-rtx=={version}\n" in readme
    assert "python run_tensorrt.py sm86-fp16.plan in.ppm out.ppm" in readme
    assert manifest.evidence.statement in readme
    assert set(result.left_out) == {"report.html", "report.json"}


def test_a_precision_without_an_engine_is_packed_only_if_asked_for(
    built: Run, tmp_path: Path
) -> None:
    asked = PackageOptions(precision="fp32")
    result = package_run(built, [0.5], "folder", tmp_path / "out", asked)
    assert "model.fp32.onnx" in names(result)
    assert result.budgets[0].engines == ()


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_what_was_not_exported_is_refused_with_the_command_that_does_it(
    built: Run, tmp_path: Path, precision: str
) -> None:
    options = PackageOptions(precision=precision)  # type: ignore[arg-type]
    with pytest.raises(SlsError, match=f"export --budget 0.5 --precision {precision}`"):
        package_run(built, [0.5], "folder", tmp_path / "out", options)
    with pytest.raises(SlsError, match=r"export --budget 0.75 --io uint8`"):
        package_run(built, [0.75], "folder", tmp_path / "out", PackageOptions(io="uint8"))
    with pytest.raises(SlsError, match=r"a folder takes one budget \(given: 0.75, 0.5\)"):
        package_run(built, [0.75, 0.5], "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_engine_of_other_bytes_than_its_manifest_says_is_left_out(
    copy: Run, tmp_path: Path
) -> None:
    with (copy.folder("engines", 0.5) / "sm86-fp16.plan").open("ab") as file:
        file.write(b"\0")
    result = package_run(copy, [0.5], "folder", tmp_path / "out")
    assert "is not the engine that" in result.left_out["sm86-fp16.plan"]
    assert "sm86-fp16.plan" not in names(result)


def test_an_engine_that_the_run_did_not_build_is_left_out(copy: Run, tmp_path: Path) -> None:
    plan = copy.folder("engines", 0.5) / "sm86-fp16.plan"
    record = json.loads((copy.path / "manifest.json").read_text())
    del record["stages"]["engines/b0.50/sm86-fp16"]
    (copy.path / "manifest.json").write_text(json.dumps(record))
    result = package_run(copy, [0.5], "folder", tmp_path / "out")
    assert "has changed" in result.left_out[plan.name]


def test_an_engine_that_brings_code_for_the_host_is_left_out(copy: Run, tmp_path: Path) -> None:
    plan = copy.folder("engines", 0.5) / "sm86-fp16.plan"
    options = read_manifest(plan.with_suffix(".json")).options
    change_engine(copy, options=replace(options, version_compatible=True))
    result = package_run(copy, [0.5], "folder", tmp_path / "out")
    assert "brings code for the host" in result.left_out[plan.name]


def test_a_changed_graph_stops_it(copy: Run, tmp_path: Path) -> None:
    with (copy.folder("export", 0.5) / "model.fp32.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SlsError, match="must be exported again"):
        package_run(copy, [0.5], "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Repositories for Triton.


def test_a_budget_without_an_engine_of_tensorrt_is_served_by_onnx_runtime(
    built: Run, tmp_path: Path
) -> None:
    result = package_run(built, [0.75, 0.5], "triton", tmp_path / "out")
    assert names(result) == [
        "README.md", "SHA256SUMS", f"{MODEL}/1/model.onnx", CONFIG,
        "small-1-b0-75/1/model.onnx", "small-1-b0-75/config.pbtxt",
    ]  # fmt: skip
    config = read_config((result.out / CONFIG).read_text(), CONFIG)
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 4)
    assert list(config.input[0].dims) == [3, -1, -1]
    assert list(config.model_warmup[0].inputs["input"].dims) == [3, 16, 24]
    why = "Triton's TensorRT backend does not load engines of tensorrt_rtx"
    assert result.left_out["b0.50/sm86-fp16.plan"] == why
    assert {"b0.50/engine", "b0.75/engine", "estimator"} <= set(result.left_out)
    assert [packed.engines for packed in result.budgets] == [(), ()]


def test_bytes_are_served_as_bytes(built: Run, tmp_path: Path) -> None:
    options = PackageOptions(io="uint8")
    result = package_run(built, [0.5], "triton", tmp_path / "out", options)
    config = read_config((result.out / CONFIG).read_text(), CONFIG)
    assert "TYPE_UINT8" in (result.out / CONFIG).read_text()
    assert list(config.input[0].dims) == list(config.output[0].dims) == [-1, -1, 3]
    assert list(config.model_warmup[0].inputs["input"].dims) == [16, 24, 3]


def test_an_engine_of_tensorrt_is_served_as_a_plan(copy: Run, tmp_path: Path) -> None:
    """The engine is of tensorrt_rtx, described as one of tensorrt: its inputs are real."""
    plan = change_engine(copy, backend="tensorrt")
    result = package_run(copy, [0.5], "triton", tmp_path / "out")
    assert names(result)[2:] == [f"{MODEL}/1/model.plan", CONFIG, f"{MODEL}/sm86-fp16.json"]
    assert hash_file(result.out / MODEL / "1" / "model.plan") == hash_file(plan)
    config = read_config((result.out / CONFIG).read_text(), CONFIG)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert (config.max_batch_size, dict(config.cc_model_filenames)) == (4, {})
    assert result.budgets[0].engines == ("sm86-fp16.plan",)
    assert set(result.left_out) == {"estimator"}


def test_engines_for_several_gpus_are_one_model(copy: Run, tmp_path: Path) -> None:
    change_engine(copy, backend="tensorrt")
    change_engine(copy, new="sm80-fp16", architecture="sm80")
    change_engine(copy, new="sm89-fp16", architecture="sm89", max_shape=(2, 3, 64, 64))
    result = package_run(copy, [0.5], "triton", tmp_path / "out")
    config = read_config((result.out / CONFIG).read_text(), CONFIG)
    assert dict(config.cc_model_filenames) == {"8.0": "sm80-fp16.plan", "8.6": "sm86-fp16.plan"}
    assert {f"{MODEL}/1/sm80-fp16.plan", f"{MODEL}/1/sm86-fp16.plan"} <= set(names(result))
    assert result.left_out["b0.50/sm89-fp16.plan"] == "takes other sizes than sm80-fp16.plan"


def test_an_engine_that_triton_cannot_load_does_not_choose_the_precision(
    copy: Run, tmp_path: Path
) -> None:
    """The graph in int8 is served by no Triton without an engine of tensorrt, that in fp16 is."""
    plan = change_engine(copy, new="sm86-int8", precision="int8")
    plan.with_name("sm86-fp16.plan").unlink()
    exported = copy.folder("export", 0.5)
    shutil.copy(exported / "model.fp32.onnx", exported / "model.int8.onnx")
    result = package_run(copy, [0.5], "triton", tmp_path / "out")
    assert result.budgets[0].precision == "fp16"
    assert hash_file(result.out / MODEL / "1" / "model.onnx") == hash_file(
        exported / "model.fp16.onnx"
    )
    assert package_run(copy, [0.5], "folder", tmp_path / "folder").budgets[0].precision == "int8"
    change_engine(copy, name="sm86-int8", backend="tensorrt")
    result = package_run(copy, [0.5], "triton", tmp_path / "served")
    assert (result.budgets[0].precision, result.budgets[0].engines) == ("int8", (plan.name,))


@pytest.mark.parametrize(("precision", "why"), [("bf16", "no bf16"), ("int8", "a setting")])
def test_what_triton_cannot_serve_is_refused(tmp_path: Path, precision: str, why: str) -> None:
    run = make_run(tmp_path / "run", {0.5: {f"model.{precision}.onnx": network("fp32")}})
    with pytest.raises(SlsError, match=f"no engine of tensorrt for Triton, and .*{why}"):
        package_run(run, [0.5], "triton", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_estimator_is_served_where_the_run_was_adapted(copy: Run, tmp_path: Path) -> None:
    folder = copy.path / "adapt"
    folder.mkdir()
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", ["n", 3, "h", "w"]), ("output", ["n", 3, 1, 1]))
    ]
    node = helper.make_node("GlobalAveragePool", ["input"], ["output"], "pool")
    graph = helper.make_graph([node], "estimator", values[:1], values[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "estimator.onnx"
    )
    candidates = (
        Candidate("skip", None, 0.0), Candidate("b0.50", 0.5, 0.6), Candidate("b0.75", 0.75, 0.8)
    )  # fmt: skip
    adaptation = Adaptation(candidates, 0.01, 32, 4, 2, 1, "y", {}, 100, 50)
    written = write_adaptation(copy, adaptation)
    copy.stage("adapt", {}, lambda: [folder / "estimator.onnx", written])
    result = package_run(copy, [0.75, 0.5], "triton", tmp_path / "out")
    model = "small-1-estimator"
    assert {f"{model}/1/model.onnx", f"{model}/adapt.json"} <= set(names(result))
    config = read_config((result.out / model / "config.pbtxt").read_text(), model)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, -1, -1], [3, 1, 1])
    assert list(config.model_warmup[0].inputs["input"].dims) == [3, 32, 32]
    (folder / "estimator.onnx").write_bytes(b"spoilt")
    stale = package_run(copy, [0.5], "triton", tmp_path / "stale")
    assert "must be adapted again" in stale.left_out["estimator"]


# The command.


def test_the_command_lists_what_is_packed_and_what_is_not(built: Run, tmp_path: Path) -> None:
    from sls_deploy.cli.package import package

    app = typer.Typer()
    app.command()(package)

    def call(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(built.path), *map(str, arguments)])
        assert done.exception is None
        return done.output

    out = tmp_path / "out"
    text = call("--budget", "0.5", "--out", out)
    lines = text.splitlines()
    assert lines[0].startswith(f"package {out}: 8 files, ")
    assert lines[1] == "  budget 0.5 in fp16: sm86-fp16.plan"
    assert [line.split()[0] for line in lines[2:10]] == FOLDER
    assert lines[10].startswith("left out: report.html: ")
    told = json.loads(call("--format", "triton", "--out", tmp_path / "models", "--json"))
    assert [packed["budget"] for packed in told["budgets"]] == [0.75, 0.5]
    refused = CliRunner().invoke(app, [str(built.path), "--out", str(out), "--budget", "0.5"])
    assert isinstance(refused.exception, SlsError)


def test_the_documented_client_gives_each_tile_to_the_network_worth_its_cost(small: Run) -> None:
    text = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    source = next(
        part for part in re.findall(r"```python\n(.*?)```", text, re.S) if "costs" in part
    )
    scope: dict[str, Any] = {}
    exec(source, scope)  # noqa: S102 - what the documentation shows
    runner = OnnxRunner(small.folder("export", 0.5) / "model.fp32.onnx")
    asked = []

    def infer(model: str, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append((model, len(pictures)))
        if model == "small-1-estimator":
            logarithms = np.log([[1e-2, 1e-4], [1e-4, 1e-4], [1e-3, 1e-4]])
            return np.float32(logarithms[:, :, None, None])
        return runner.run(pictures)

    def enlarge(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        return pictures.repeat(2, axis=2).repeat(2, axis=3)

    surrounded = np.random.default_rng(0).random((3, 3, 16, 24), dtype=np.float32)
    kept = surrounded[:, :, 4:-4, 4:-4]
    adaptation = {
        "candidates": [
            {"name": "skip", "budget": None, "cost": 0.0},
            {"name": "b0.50", "budget": 0.5, "cost": 0.5},
        ],
        "overlap": 4,
        "scale": 2,
        "exponent": EXPONENT,
    }
    restored = scope["restore_tiles"](kept, surrounded, infer, enlarge, "small-1", adaptation, 0.05)
    assert asked == [("small-1-estimator", 3), ("small-1-b0-50", 2)]
    by_network = runner.run(surrounded)[:, :, 8:-8, 8:-8]
    np.testing.assert_allclose(restored[[0, 2]], by_network[[0, 2]], atol=1e-6)
    np.testing.assert_array_equal(restored[1], enlarge(kept)[1])
