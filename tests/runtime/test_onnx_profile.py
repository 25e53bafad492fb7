from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sls_deploy.runtime.onnx_profile import node_times
from sls_deploy.runtime.onnxruntime import OnnxRunner

PICTURES = np.random.default_rng(0).random((2, 3, 12, 16), dtype=np.float32)
GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
network (float[{batch}, 3, height, width] input) => (float[{batch}, 3, height, width] output)
{{
    [first] inner = Sigmoid (input)
    [second] output = Tanh (inner)
}}
"""


def write(path: Path, batch: str) -> Path:
    path.write_bytes(onnx.parser.parse_model(GRAPH.format(batch=batch)).SerializeToString())
    return path


@pytest.mark.parametrize("batch", ["batch", "1"])
def test_every_node_is_timed_in_order(tmp_path: Path, batch: str) -> None:
    times = OnnxRunner(write(tmp_path / "network.onnx", batch), threads=1).profile(PICTURES, 3)
    assert times is not None
    assert [(time.name, time.kind, time.device) for time in times] == [
        ("first", "Sigmoid", "CPUExecutionProvider"),
        ("second", "Tanh", "CPUExecutionProvider"),
    ]
    assert all(0 <= time.ms < 1000 for time in times)


def test_the_profile_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "network.onnx", "batch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    OnnxRunner(path, threads=1).profile(PICTURES, 1)
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def event(name: str, microseconds: int, category: str = "Node") -> dict[str, object]:
    told = {"op_name": "Conv", "provider": "CPUExecutionProvider"}
    return {"cat": category, "name": name, "dur": microseconds, "args": told}


def test_a_node_has_the_median_of_its_later_runs() -> None:
    durations = (9000, 1000, 3000, 2000)
    events = [
        event("session", 5, "Session"),
        *(event("conv_kernel_time", duration) for duration in durations),
        event("conv_fence_before", 5),
    ]
    (time,) = node_times(events)
    assert (time.name, time.kind, time.ms) == ("conv", "Conv", 2.0)
