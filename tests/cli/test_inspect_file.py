"""`sls-deploy inspect` of ONNX files and runs: what they hold, where they depart."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model
from tests.export.conftest import prune, write_search

Program = Callable[..., Any]
WEIGHT = "body.0.body.0.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, program: Program) -> Path:
    """The run folder of a small network, exported in fp32 and fp16."""
    torch.manual_seed(0)
    options = {"features": 16, "blocks": 1, "scale": 2, "input_range": 1.0}
    model = build_model(Description("edsr", options, 2, 1.0))
    folder = tmp_path_factory.mktemp("inspect") / "run"
    write_search(folder, model, prune(model))
    outcome = program("export", folder, "--precision", "fp32,fp16", cwd=folder.parent)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs" / "small")


@pytest.fixture
def alone(made: Path, tmp_path: Path) -> Path:
    """The fp32 file without the proof beside it."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return Path(shutil.copy(made / "export" / "b0.50" / "model.fp32.onnx", folder / "model.onnx"))


def change(path: Path, edit: Callable[[onnx.ModelProto, TensorProto], object]) -> None:
    """Edit a file and the weight of one of its layers."""
    model = onnx.load(path)
    edit(model, next(item for item in model.graph.initializer if item.name == WEIGHT))
    path.write_bytes(model.SerializeToString())


def flip(_: onnx.ModelProto, tensor: TensorProto) -> None:
    array = -numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def spoil(_: onnx.ModelProto, tensor: TensorProto) -> None:
    array = numpy_helper.to_array(tensor).copy()
    array.flat[7] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def declare_3_gib(_: onnx.ModelProto, tensor: TensorProto) -> None:
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=[3 * 2**28]))


def refer_to(location: str) -> Callable[[onnx.ModelProto, TensorProto], object]:
    def edit(_: onnx.ModelProto, tensor: TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


TAMPERED = {
    "opset 99": (lambda model, _: setattr(model.opset_import[0], "version", 99), "uses opset 99"),
    "NaN": (spoil, r"tensor 'body\.0\.body\.0\.weight' holds NaN"),
    "3 GB declared": (declare_3_gib, r"is declared with 3 GiB, where a file holds 2 GiB"),
    "missing data": (refer_to("lost.bin"), "external data 'lost.bin', which is missing"),
    "climbs out": (refer_to("../secret.bin"), "external data outside of the file's folder"),
}


def check_refused(outcome: Any, expected: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(expected, line), line


def test_lists_the_layers_of_a_file(program: Program, alone: Path, tmp_path: Path) -> None:
    outcome = program("inspect", alone, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert "opset 18" in lines[0]
    assert "input FLOAT [batch, 3, height, width] -> output FLOAT" in lines[0]
    rows = {line.split()[0]: line for line in lines[2:] if " Conv " in line}
    cells = ["body.0.body.0", "Conv", "16x16x3x3", "1", "fp32", "50.0%", "yes", "eligible"]
    assert rows["body.0.body.0"].split() == cells
    assert rows["head.0"].split()[5:7] == ["100.0%", "no"]
    assert rows["head.0"].endswith("not a multiple of 4, its weights are not 2:4")
    assert any("layers are 2:4" in line for line in lines)
    assert any(line.strip() == "pattern: 2:4" for line in lines)
    assert lines[-1].endswith("stands in no proof.json beside it")


def test_lists_all_files_of_a_run_as_json(program: Program, run: Path, tmp_path: Path) -> None:
    outcome = program("inspect", run, "--json", cwd=tmp_path)
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert [item["precision"] for item in found] == ["fp32", "fp16"]
    assert all(item["proved"] for item in found)
    assert {layer["precision"] for layer in found[1]["layers"]} == {"fp16"}
    assert found[0]["legal_2_4"] == sum(layer["legal_2_4"] for layer in found[0]["layers"])
    assert found[0]["facts"]["budget"] == "0.5"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_export_departs_nowhere(
    program: Program, run: Path, tmp_path: Path, precision: str
) -> None:
    outcome = program("inspect", run, "--budget", 0.5, "--compare", precision, cwd=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert "PSNR to the peak of each value" in lines[0]
    assert any(line.startswith("body.0.body.0.Conv ") for line in lines)
    assert any(line.endswith("values departs") for line in lines)
    assert not any(line.endswith(" departs") for line in lines[2:-2])


def test_names_the_first_layer_that_departs(
    program: Program, run: Path, alone: Path, tmp_path: Path
) -> None:
    change(alone, flip)
    sound = run / "export" / "b0.50" / "model.fp32.onnx"
    outcome = program("inspect", sound, "--compare", alone, cwd=tmp_path)
    assert outcome.code == 1
    (line,) = outcome.err.splitlines()
    assert "'body.0.body.0.Conv' is the first below 80 dB" in line
    departing = [row.split()[0] for row in outcome.out.splitlines() if row.endswith(" departs")]
    assert departing[0] == "body.0.body.0.Conv"
    outcome = program("inspect", sound, "--compare", alone, "--json", cwd=tmp_path)
    assert outcome.code == 1
    (found,) = json.loads(outcome.out)
    assert found["first"]["node"] == "body.0.body.0.Conv"
    assert found["values"][0]["psnr_db"] == 200


@pytest.mark.parametrize(("edit", "expected"), TAMPERED.values(), ids=list(TAMPERED))
def test_a_tampered_file_is_refused_in_one_line(
    program: Program,
    alone: Path,
    tmp_path: Path,
    edit: Callable[[onnx.ModelProto, TensorProto], object],
    expected: str,
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16 * 16 * 9 * 4))
    change(alone, edit)
    check_refused(program("inspect", alone, cwd=tmp_path), rf"model\.onnx: .*{expected}")
    check_refused(program("inspect", alone, "--json", cwd=tmp_path), expected)


@pytest.mark.parametrize(
    "arguments",
    ["{file}", "{run}", "{run} --compare fp32", "{run} --compare fp16 --budget 0.5",
     "{file} --compare {other}", "{other} --compare {file}"],
)  # fmt: skip
def test_a_flipped_weight_is_refused_in_one_line(
    program: Program, run: Path, tmp_path: Path, arguments: str
) -> None:
    folder = run / "export" / "b0.50"
    file, other = folder / "model.fp32.onnx", folder / "model.fp16.onnx"
    change(file, flip)
    given = arguments.format(file=file, other=other, run=run).split()
    outcome = program("inspect", *given, cwd=tmp_path)
    check_refused(outcome, r"model\.fp32\.onnx: is not the file that was proved: its SHA-256")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nowhere.onnx", r"nowhere\.onnx: no such file"),
        (".", "no run there"),
        ("{file} --budget 0.5", "--budget: means nothing for a file"),
        ("{file} --compare nowhere.onnx", r"nowhere\.onnx: no such file"),
        ("{file} --weights a.pth", "is given beside --model or --weights"),
        ("--compare fp16", "--compare: needs an ONNX file or a run folder"),
        ("--budget 0.5", "--budget: needs an ONNX file or a run folder"),
        ("{run} --compare fp8", "--compare: 'fp8' is no precision.*fp32, fp16, bf16, int8"),
        ("{run} --compare bf16", r"was not exported in bf16.*--precision bf16"),
        ("{run} --budget 0.25", r"0\.25 was not exported"),
        ("{run} --budget half", "'half' is not a budget"),
    ],
)
def test_bad_input_is_refused(
    program: Program, run: Path, alone: Path, tmp_path: Path, arguments: str, expected: str
) -> None:
    given = arguments.format(file=alone, run=run).split()
    check_refused(program("inspect", *given, cwd=tmp_path), expected)


def test_a_run_without_exports_says_so(program: Program, run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["export/b0.50"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    check_refused(program("inspect", run, cwd=tmp_path), "nothing was exported yet")
