from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest
from torch import nn

from sls_deploy.config import ExportConfig
from sls_deploy.errors import SlsError
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import hash_file
from sls_deploy.progress import Progress
from sls_deploy.run import Run

ALL = ExportConfig()
FP32 = ExportConfig(precisions=("fp32",))


@pytest.fixture(scope="module")
def run(fresh_run: Callable[..., Run]) -> Run:
    return fresh_run("edsr")


def left_in(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder("export", 0.5).glob("*"))


def test_prints_nothing_and_reports_progress(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    reports: list[Progress] = []
    export_onnx(run, 0.5, ALL, reports.append)
    assert [(report.done, report.total) for report in reports] == [(n, 4) for n in range(5)]
    assert capfd.readouterr() == ("", "")


def test_is_skipped_when_nothing_changed(run: Run) -> None:
    first = export_onnx(run, 0.5, ALL)
    second = export_onnx(run, 0.5, ALL)
    assert second.skipped
    assert second.layers == first.layers
    assert run.budgets("export") == [0.5]


def test_gives_the_same_bytes_again(run: Run) -> None:
    before = [hash_file(path) for path in export_onnx(run, 0.5, ALL).files.values()]
    (run.folder("export", 0.5) / "proof.json").unlink()
    again = export_onnx(run, 0.5, ALL)
    assert not again.skipped
    assert [hash_file(path) for path in again.files.values()] == before


def test_writes_only_what_is_asked_for(run: Run) -> None:
    result = export_onnx(run, 0.5, FP32)
    assert left_in(run) == ["model.fp32.onnx", "proof.json"]
    assert json.loads(result.proof.read_text())["headroom"] is None


def test_the_file_says_what_it_is(run: Run) -> None:
    path = export_onnx(run, 0.5, FP32).files["fp32"]
    facts = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert facts["sls_deploy.pattern"] == "2:4"
    assert facts["sls_deploy.precision"] == "fp32"
    assert json.loads(facts["sls_deploy.model"])["name"] == "edsr"
    weights = run.folder("search", 0.5) / "weights.safetensors"
    assert facts["sls_deploy.weights_sha256"] == hash_file(weights)


def test_refuses_a_budget_that_was_not_searched(run: Run) -> None:
    with pytest.raises(SlsError, match=r"budget 0\.25 was not searched \(done: 0\.5\)"):
        export_onnx(run, 0.25, ALL)


def test_refuses_activations_beyond_fp16_and_names_the_layer(
    fresh_run: Callable[..., Run],
) -> None:
    def inflate(network: nn.Module) -> None:
        network.get_parameter("body.0.body.0.weight").data *= 1e5

    run = fresh_run("edsr", inflate)
    with pytest.raises(SlsError, match=r"body\.0.*reaches .* beyond the 65504"):
        export_onnx(run, 0.5, ALL)
    assert left_in(run) == []


def test_refuses_lost_precision_and_leaves_nothing(fresh_run: Callable[..., Run]) -> None:
    def offset(network: nn.Module) -> None:
        # A large constant that the last convolution takes away again: fp16 loses what it carries.
        network.get_parameter("head.0.bias").data += 3e4
        last = network.get_parameter("tail.1.weight")
        last.data -= last.data.mean((1, 2, 3), keepdim=True)

    run = fresh_run("edsr", offset)
    with pytest.raises(SlsError, match=r"the fp16 graph: lies .* dB from PyTorch"):
        export_onnx(run, 0.5, ALL)
    assert left_in(run) == []
    assert run.budgets("export") == []
