from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sls_deploy.adapt.network import Estimator, estimator_graph, macs_per_pixel, widest
from sls_deploy.onnx_file import read_model
from sls_deploy.runtime.onnxruntime import OnnxRunner


def estimator(candidates: int = 3, frames: int = 1, width: int = 4) -> Estimator:
    torch.manual_seed(0)
    return Estimator(candidates, frames, width).eval()


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 37, 61), (5, 3, 80, 80)])
def test_the_graph_gives_what_the_network_gives(shape: tuple[int, ...]) -> None:
    network = estimator()
    pictures = np.random.default_rng(0).random(shape, np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(pictures)).numpy()
    got = OnnxRunner(estimator_graph(network)).run(pictures)
    assert got.shape == (shape[0], 3, 1, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_graph_is_one_that_every_stage_reads_and_names_its_weights(tmp_path: Path) -> None:
    network = estimator(frames=3)
    path = tmp_path / "estimator.onnx"
    path.write_bytes(estimator_graph(network))
    named = {tensor.name for tensor in read_model(path).graph.initializer}
    assert named >= network.state_dict().keys()
    assert path.read_bytes() == estimator_graph(network)


@settings(max_examples=20)
@given(st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([4, 8, 16]))
def test_multiply_accumulates_are_those_of_the_layers(
    candidates: int, frames: int, width: int
) -> None:
    network, counted = estimator(candidates, frames, width), []

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        counted.append(layer.weight.numel() * output.shape[2] * output.shape[3])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3 * frames, 64, 32))
    assert sum(counted) == macs_per_pixel(candidates, frames, width) * 64 * 32


@given(st.floats(1, 1e5), st.integers(1, 5))
def test_the_widest_estimator_within_a_limit_is_taken(limit: float, candidates: int) -> None:
    width = widest(candidates, 1, limit)
    assert macs_per_pixel(candidates, 1, width) <= max(limit, macs_per_pixel(candidates, 1, 4))


def test_the_error_of_a_tile_is_the_mean_of_its_blocks() -> None:
    network, tile = estimator(), torch.rand(2, 3, 32, 48)
    blocks = network.blocks(tile)
    assert blocks.shape == (2, 3, 4, 6)
    torch.testing.assert_close(network(tile).exp(), blocks.mean((2, 3), keepdim=True))


def test_estimates_stay_within_what_errors_can_be() -> None:
    network = estimator()
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([500.0, -500.0, 0.0]))
        lowest, highest = network(torch.rand(1, 3, 16, 16))[0, [1, 0], 0, 0].exp().tolist()
    assert (lowest, highest) == pytest.approx((1e-8, 1.0), rel=1e-4)
