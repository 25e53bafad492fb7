from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.histograms import BINS, Histogram, SpreadCounter, measure_spreads
from sls_deploy.errors import SlsError

GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch, 3, height, width] input) => (float[batch, 3, height, width] output)
<float white = {-255.0}, float[batch, 3, height, width] scaled, float[batch, 3, height, width] act>
{
    [scale] scaled = Mul (input, white)
    [act] act = Neg (scaled)
    [out] output = Add (act, input)
}
"""


def graph() -> bytes:
    return bytes(onnx.parser.parse_model(GRAPH).SerializeToString())


def histogram(batches: list[np.ndarray]) -> Histogram:
    counter = SpreadCounter(1)
    for values in batches:
        counter.add(values)
    return counter.spread().histogram


def random_batch(seed: int, size: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (size * rng.standard_normal((2, 3, 4, 5))).astype(np.float32)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_counts_every_value_within_a_bin_of_its_place(sizes: list[float]) -> None:
    batches = [random_batch(seed, size) for seed, size in enumerate(sizes)]
    magnitudes = np.abs(np.concatenate(batches).ravel())
    found = histogram(batches)
    assert found.largest == magnitudes.max()
    assert found.counts.sum() + found.zeros == magnitudes.size
    assert found.width * BINS < 2 * found.largest * (1 + 1e-6)
    # Sorted, the centres of the bins lie where the values do.
    places = np.repeat(found.centres, found.counts)
    assert np.allclose(places, np.sort(magnitudes[magnitudes > 0]), atol=found.width)


def test_zeros_are_counted_apart() -> None:
    found = histogram([np.array([[0, 0, 1, -2]], np.float32), np.zeros((1, 4), np.float32)])
    assert found.zeros == 6
    assert found.counts.sum() == 2


def test_zeros_before_anything_else_do_not_set_the_width() -> None:
    found = histogram([np.zeros((1, 4), np.float32), np.full((1, 4), 3, np.float32)])
    assert found.width == 3 / BINS


def test_the_share_above_a_bound_is_of_all_values() -> None:
    found = histogram([np.array([[0, 1, 2, -3]], np.float32)])
    assert found.share_above(1.5) == 0.5
    assert found.share_above(3) == 0


def test_means_are_of_channels_over_all_batches() -> None:
    counter = SpreadCounter(-1)
    counter.add(np.array([[1, 10], [2, 20]], np.float32))
    counter.add(np.array([[[6, 60]]], np.float32))
    assert np.allclose(counter.spread().channel_means, [3, 30])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(SlsError, match="NaN or infinity"):
        SpreadCounter(1).add(np.array([[0, bad]], np.float32))


def test_measures_tensors_of_a_graph_and_its_ends() -> None:
    batches = [np.full((2, 3, 4, 5), value, np.float32) for value in (0.25, 0.5)]
    axes = {"output": 1, "input": 1, "scaled": 1}
    found = measure_spreads(graph(), axes, batches)
    assert list(found) == ["output", "input", "scaled"]
    assert found["input"].histogram.largest == 0.5
    assert found["scaled"].histogram.largest == 127.5
    assert found["output"].histogram.counts.sum() == 2 * 2 * 3 * 4 * 5
    assert np.allclose(found["scaled"].channel_means, -255 * 0.375)
