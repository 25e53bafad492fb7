"""EDSR against its equations and the authors' release."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import StateDict
from sls_deploy.models.edsr import EDSR, recognise


def convolve(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def from_equations(state: StateDict, x: torch.Tensor, blocks: int, factor: float) -> torch.Tensor:
    """EDSR x4 written straight from its figures 2c and 3."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1) * 255
    shallow = deep = convolve(state, "head.0", x - mean)
    for block in range(blocks):
        inner = convolve(state, f"body.{block}.body.0", deep).clamp(min=0)
        deep = deep + factor * convolve(state, f"body.{block}.body.2", inner)
    deep = convolve(state, f"body.{blocks}", deep) + shallow
    for step in (0, 2):
        deep = functional.pixel_shuffle(convolve(state, f"tail.0.{step}", deep), 2)
    return convolve(state, "tail.1", deep) + mean


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_equals_the_equations(factor: float) -> None:
    network = EDSR(features=8, blocks=3, scale=4, res_scale=factor)
    x = torch.rand(1, 3, 9, 11) * 255
    with torch.inference_mode():
        expected = from_equations(network.state_dict(), x, 3, factor)
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"scale": 2}, 1.370),
        ({"scale": 3}, 1.555),
        ({"scale": 4}, 1.518),
        ({"features": 256, "blocks": 32, "scale": 4}, 43.090),
    ],
)
def test_has_the_published_size(options: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = EDSR(**options)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 3) == millions


def test_baseline_has_the_release_keys() -> None:
    with torch.device("meta"):
        keys = set(EDSR(scale=4).state_dict())
    layers = {key.rpartition(".")[0] for key in keys}
    blocks = {f"body.{block}.body.{place}" for block in range(16) for place in (0, 2)}
    ends = {"sub_mean", "add_mean", "head.0", "body.16", "tail.0.0", "tail.0.2", "tail.1"}
    assert layers == blocks | ends


def test_large_network_has_the_residual_factor_of_the_paper() -> None:
    with torch.device("meta"):
        state = EDSR(features=256, blocks=32, mean_shift=False).state_dict()
    description = recognise(state, None)
    assert description is not None
    assert description.options["res_scale"] == 0.1


def test_scale_without_an_upsampler_is_refused() -> None:
    with pytest.raises(SlsError, match="2, 3 and 4"):
        EDSR(scale=5)
