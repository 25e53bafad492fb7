from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from sls_deploy.calibration.ranges import measure_peaks
from sls_deploy.errors import SlsError

GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch, 3, height, width] input) => (float[batch, 3, height, width] output)
<
    float white = {-255.0}, float[batch, 3, height, width] scaled, int64[4] size,
    float[batch, 3, height, width] root
>
{
    [scale] scaled = Mul (input, white)
    [shape] size = Shape (input)
    [root] root = Sqrt (scaled)
    [out] output = Add (scaled, input)
}
"""


def graph(text: str = GRAPH) -> bytes:
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def batch(value: float) -> np.ndarray:
    return np.full((2, 3, 4, 5), value, np.float32)


def test_finds_the_largest_magnitude_over_all_pictures() -> None:
    peaks = {peak.tensor: peak.largest for peak in measure_peaks(graph(), [batch(0.5), batch(0)])}
    assert peaks["scaled"] == 127.5
    assert peaks["output"] == 127


def test_follows_the_order_of_the_graph_and_leaves_integers_out() -> None:
    peaks = measure_peaks(graph(), [batch(0)])
    assert [peak.node for peak in peaks] == ["scale", "root", "out"]


def test_keeps_a_nan_of_an_earlier_picture() -> None:
    peaks = measure_peaks(graph(), [batch(1), batch(0)])
    assert math.isnan({peak.tensor: peak.largest for peak in peaks}["root"])


def test_refuses_a_graph_that_cannot_run() -> None:
    broken = GRAPH.replace("Sqrt (scaled)", "NoSuchOperator (scaled)")
    with pytest.raises(SlsError, match="ONNX Runtime"):
        measure_peaks(graph(broken), [batch(0)])
