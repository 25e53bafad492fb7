"""CARN's checkpoints of several scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.carn import CARN
from sls_deploy.models.model import load_model


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that holds upsamplers for x2, x3 and x4."""
    state: dict[str, torch.Tensor] = {}
    for scale in (2, 3, 4):
        network = CARN(features=8, groups=2, efficient=True, shared=True, scale=scale,
                       multi_scale=True)  # fmt: skip
        state = {**network.state_dict(), **state}
    path = tmp_path_factory.mktemp("carn") / "several.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scale_asked_for_is_built_alone(several: Path, scale: int) -> None:
    model = load_model(several, ModelConfig(scale=scale))
    held = {key.split(".")[1] for key in model.network.state_dict() if key.startswith("upsample")}
    assert held == {f"up{scale}"}
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 8, 8)).shape[2:] == (8 * scale, 8 * scale)


def test_largest_scale_is_taken_unless_asked(several: Path) -> None:
    assert load_model(several).description.scale == 4


def test_scale_that_is_not_there_lists_those_there(several: Path) -> None:
    with pytest.raises(SlsError, match=r"x8 .*x2, x3, x4"):
        load_model(several, ModelConfig(scale=8))


def test_shared_block_runs_three_times() -> None:
    network = CARN(features=8, groups=2, efficient=True, shared=True)
    calls: list[int] = []
    network.get_submodule("b1.b1").register_forward_hook(lambda *_: calls.append(1))
    network(torch.rand(1, 3, 8, 8))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1_591_963),  # the paper's 1,592 K
        ({"groups": 4, "efficient": True, "shared": True}, 414_811),  # the authors' CARN-M
    ],
)
def test_has_the_published_size(options: dict[str, Any], count: int) -> None:
    state: dict[str, torch.Tensor] = {}
    with torch.device("meta"):
        for scale in (2, 3, 4):
            state |= CARN(scale=scale, multi_scale=True, **options).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == count
