from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import onnx
import onnx_ir as ir
import pytest
from torch import nn

from sls_deploy.config import ExportConfig, Precision
from sls_deploy.data.samples import export_samples
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_onnx
from sls_deploy.export.parity import MIN_PARITY_DB
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import hash_file
from sls_deploy.models.model import RestorationModel
from sls_deploy.progress import Progress
from sls_deploy.run import Run

ALL = ExportConfig(calibration_crops=4)
FP32 = ExportConfig(precisions=("fp32",))


@pytest.fixture(scope="module")
def run(fresh_run: Callable[..., Run]) -> Run:
    return fresh_run("edsr")


def left_in(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder("export", 0.5).glob("*"))


def test_prints_nothing_and_reports_progress(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    reports: list[Progress] = []
    export_onnx(run, 0.5, ALL, reports.append)
    assert [(r.done, r.total) for r in reports if r.task == "export b0.50"] == [
        (done, 3) for done in range(4)
    ]
    assert capfd.readouterr() == ("", "")


def test_is_skipped_when_nothing_changed(run: Run) -> None:
    first = export_onnx(run, 0.5, ALL)
    second = export_onnx(run, 0.5, ALL)
    assert second.skipped
    assert second.layers == first.layers
    assert run.budgets("export") == [0.5]


def test_gives_the_same_bytes_again(run: Run) -> None:
    before = [hash_file(item.file) for item in export_onnx(run, 0.5, ALL).precisions.values()]
    (run.folder("export", 0.5) / "proof.json").unlink()
    again = export_onnx(run, 0.5, ALL)
    assert not again.skipped
    assert [hash_file(item.file) for item in again.precisions.values()] == before


def test_other_calibration_pictures_export_again(run: Run, tmp_path: Path) -> None:
    export_samples(tmp_path, ["coffee", "rocket"])
    export_onnx(run, 0.5, ALL)
    again = export_onnx(run, 0.5, ALL.model_copy(update={"calibration": tmp_path}))
    assert not again.skipped
    assert json.loads(again.proof.read_text())["files"]["fp16"]["pictures"] == str(tmp_path)


def test_writes_only_what_is_asked_for(run: Run) -> None:
    result = export_onnx(run, 0.5, FP32)
    assert left_in(run) == ["model.fp32.onnx", "proof.json"]
    assert list(result.precisions) == ["fp32"]


def test_the_file_says_what_it_is(run: Run) -> None:
    path = export_onnx(run, 0.5, FP32).precisions["fp32"].file
    facts = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert facts["sls_deploy.pattern"] == "2:4"
    assert facts["sls_deploy.precision"] == "fp32"
    assert json.loads(facts["sls_deploy.model"])["name"] == "edsr"
    weights = run.folder("search", 0.5) / "weights.safetensors"
    assert facts["sls_deploy.weights_sha256"] == hash_file(weights)


def test_refuses_a_budget_that_was_not_searched(run: Run) -> None:
    with pytest.raises(SlsError, match=r"budget 0\.25 was not searched \(done: 0\.5\)"):
        export_onnx(run, 0.25, ALL)


def inflated(network: nn.Module) -> None:
    """A block whose inner activations leave fp16, and whose second convolution brings them back."""
    network.get_parameter("body.0.body.0.weight").data *= 1e4
    network.get_parameter("body.0.body.0.bias").data *= 1e4
    network.get_parameter("body.0.body.2.weight").data *= 1e-4


def test_what_overflows_stays_fp32_and_is_named(fresh_run: Callable[..., Run]) -> None:
    found = export_onnx(fresh_run("edsr", inflated), 0.5, ALL).precisions["fp16"]
    assert {name.rpartition(".")[0] for name in found.kept} >= {"body.0.body.0", "body.0.body.2"}
    assert all("reaches" in why or "reads" in why for why in found.kept.values())
    assert found.rounded_db is not None
    assert found.rounded_db > 60


def test_refuses_lost_precision_and_leaves_nothing(fresh_run: Callable[..., Run]) -> None:
    def offset(network: nn.Module) -> None:
        # A large constant that the last convolution takes away again: fp16 loses what it carries.
        network.get_parameter("head.0.bias").data += 1e4
        last = network.get_parameter("tail.1.weight")
        last.data -= last.data.mean((1, 2, 3), keepdim=True)

    run = fresh_run("edsr", offset)
    with pytest.raises(SlsError, match=r"the fp16 graph: lies .* dB from PyTorch"):
        export_onnx(run, 0.5, ALL)
    assert left_in(run) == []
    assert run.budgets("export") == []


def test_wrong_graph_is_refused_with_the_first_layer_that_departs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(model: RestorationModel) -> ir.Model:
        graph = to_onnx(model)
        node = next(node for node in graph.graph if node.name == "body.1.body.1.Relu")
        node.op_type = "Abs"
        return graph

    export_onnx(run, 0.5, FP32)
    monkeypatch.setattr("sls_deploy.export.stage.to_onnx", damaged)
    options = FP32.model_copy(update={"half_loss_db": 0.5})
    with pytest.raises(SlsError, match=r"dB from PyTorch.*'body\.1\.body\.1\..*is the first below"):
        export_onnx(run, 0.5, options)
    assert left_in(run) == ["model.fp32.onnx", "proof.json"]


def test_every_precision_is_proved(fresh_run: Callable[..., Run]) -> None:
    options = ExportConfig(precisions=get_args(Precision), calibration_crops=4, io="uint8")
    result = export_onnx(fresh_run("rfdn"), 0.5, options, paranoid=True)
    files = json.loads(result.proof.read_text())["files"]
    assert list(files) == ["fp32", "fp16", "bf16", "int8"]
    for precision, entry in files.items():
        assert entry["parity"]["psnr_db"] >= MIN_PARITY_DB[precision]
        assert all(layer["legal_2_4"] for layer in entry["layers"] if layer["pruned"])
        assert all(change["parity_db"] is not None for change in entry["passes"])
        assert entry["uint8"]["max_error"] < 1.5 / 255
    assert {layer["precision"] for layer in files["int8"]["layers"]} == {"int8", "fp16"}
    assert len(list(result.proof.parent.iterdir())) == 9


def test_one_size_is_fixed_throughout(fresh_run: Callable[..., Run]) -> None:
    options = ExportConfig(static_shape=(2, 3, 21, 40), calibration_crops=4)
    result = export_onnx(fresh_run("rlfn"), 0.5, options)
    model = onnx.load(result.precisions["fp16"].file)
    sizes = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [2, 3, 21, 40]
    assert not any(node.op_type == "Shape" for node in model.graph.node)


def test_masks_of_the_old_order_are_refused_where_the_new_one_is_asked_for(run: Run) -> None:
    with pytest.raises(SlsError, match=r"was searched without reordering.*--permute"):
        export_onnx(run, 0.5, FP32, permuted=True)
