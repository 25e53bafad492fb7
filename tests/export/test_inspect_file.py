from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sls_deploy.config import ExportConfig
from sls_deploy.errors import SlsError
from sls_deploy.export.inspect_file import (
    check_proved,
    compare_export,
    compare_files,
    exported_files,
    inspect_file,
)
from sls_deploy.export.stage import export_onnx
from sls_deploy.run import Run


@pytest.fixture(scope="module")
def run(fresh_run: Callable[..., Run]) -> Run:
    made = fresh_run("edsr")
    export_onnx(made, 0.5, ExportConfig(calibration_crops=4))
    return made


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """The fp32 file of the run in a folder of its own, with the proof beside it."""
    for name in ("model.fp32.onnx", "proof.json"):
        (tmp_path / name).write_bytes((run.folder("export", 0.5) / name).read_bytes())
    return tmp_path / "model.fp32.onnx"


def flip(path: Path) -> None:
    """Change one weight by its last bit."""
    model = onnx.load(path)
    tensor = next(item for item in model.graph.initializer if item.name.endswith(".weight"))
    content = bytearray(tensor.raw_data)
    content[0] ^= 1
    tensor.raw_data = bytes(content)
    path.write_bytes(model.SerializeToString())


def test_says_what_an_exported_file_is(run: Run) -> None:
    found = inspect_file(exported_files(run, 0.5)["fp16"])
    assert found.proved
    assert (found.precision, found.opset) == ("fp16", 18)
    assert found.facts["pattern"] == "2:4"
    assert [(port.name, port.dtype) for port in (*found.inputs, *found.outputs)] == [
        ("input", "FLOAT"), ("output", "FLOAT"),
    ]  # fmt: skip
    assert found.inputs[0].shape == ("batch", 3, "height", "width")
    proof = json.loads((run.folder("export", 0.5) / "proof.json").read_text())
    proved = proof["files"]["fp16"]["layers"]
    assert [layer.name for layer in found.layers] == [layer["name"] for layer in proved]
    assert found.legal == sum(layer["legal_2_4"] for layer in proved)
    assert found.eligible == sum(layer["eligible"] for layer in proved) > 0
    assert found.sha256 == proof["files"]["fp16"]["sha256"]


def test_lists_what_a_file_of_others_holds(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    weight = np.ones((8, 4, 1, 1), np.float32)
    nodes = [
        helper.make_node("Neg", ["w"], ["computed"]),
        helper.make_node("Conv", ["x", "w"], ["a"], "first", group=1),
        helper.make_node("Conv", ["x", "computed"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [1, 4, None, "w"]) for name in "xy"]
    graph = helper.make_graph(
        nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    found = inspect_file(path)
    assert not found.proved
    assert (found.facts, found.opset, found.precision) == ({}, 13, "fp32")
    assert found.inputs[0].shape == (1, 4, "?", "w")
    assert [(layer.name, layer.shape, layer.reason) for layer in found.layers] == [
        ("w", (8, 4, 1, 1), "its weights are not 2:4"),
        ("second", (), "its weights come through Neg, which is not followed"),
    ]


def test_a_flipped_weight_is_not_what_was_proved(copied: Path) -> None:
    assert check_proved(copied)
    flip(copied)
    with pytest.raises(SlsError, match=r"fp32\.onnx: is not the file that was proved: its SHA"):
        inspect_file(copied)


def test_a_file_that_the_proof_does_not_know_is_not_proved(copied: Path) -> None:
    other = copied.rename(copied.parent / "other.onnx")
    assert not inspect_file(other).proved


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {}}', '{"files": 3}'])
def test_a_damaged_proof_is_refused(copied: Path, content: str) -> None:
    (copied.parent / "proof.json").write_text(content)
    with pytest.raises(SlsError, match=r"proof\.json: is not the proof of an export"):
        inspect_file(copied)


def test_two_files_of_one_export_agree(run: Run) -> None:
    files = exported_files(run, 0.5)
    found = compare_files(files["fp32"], files["fp16"])
    assert found.first is None
    assert found.limit_db == 50
    assert len(found.values) > 10


def test_a_flipped_sign_is_found_between_two_files(run: Run, copied: Path) -> None:
    (copied.parent / "proof.json").unlink()
    model = onnx.load(copied)
    weights = [item for item in model.graph.initializer if item.name.endswith(".weight")]
    weights[2].raw_data = (-numpy_helper.to_array(weights[2])).tobytes()
    copied.write_bytes(model.SerializeToString())
    found = compare_files(exported_files(run, 0.5)["fp32"], copied)
    assert found.first is not None
    assert found.first.node == f"{weights[2].name.removesuffix('.weight')}.Conv"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_agrees_with_its_network(run: Run, precision: str) -> None:
    found = compare_export(run, 0.5, precision)  # type: ignore[arg-type]
    assert found.first is None
    assert found.limit_db == {"fp32": 80, "fp16": 50}[precision]
    assert found.values[-1].psnr_db < 200


def test_what_was_not_exported_is_not_compared(run: Run) -> None:
    with pytest.raises(SlsError, match=r"0\.5 was not exported in bf16.*--precision bf16"):
        compare_export(run, 0.5, "bf16")
    with pytest.raises(SlsError, match=r"0\.25 was not exported"):
        compare_export(run, 0.25, "fp32")


@pytest.mark.parametrize(
    "about", ["{", "[1]", '{"scale": 0}', '{"scale": 1e9}', '{"multiple": 4096}', '{"sides": 1}']
)
def test_metadata_of_others_cannot_ask_for_any_size(copied: Path, about: str) -> None:
    (copied.parent / "proof.json").unlink()
    model = onnx.load(copied)
    helper.set_model_props(model, {"sls_deploy.model": about})
    copied.write_bytes(model.SerializeToString())
    with pytest.raises(SlsError, match="does not say what pictures it takes"):
        compare_files(copied, copied)
