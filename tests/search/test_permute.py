"""Orders of channels in which 2:4 keeps more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sls_deploy.config import Config, DataConfig, SearchConfig
from sls_deploy.files import hash_file
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model
from sls_deploy.progress import Progress
from sls_deploy.search.layers import find_layers
from sls_deploy.search.permute import Permutation, measure_importance, permute
from sls_deploy.search.reorder import computes_the_same
from sls_deploy.search.stage import search_budgets
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.least_squares import Problem
from sls_deploy.sparsity.pattern import Pattern
from tests.conftest import module_of_few_passes

EDSR = Description("edsr", {"features": 16, "blocks": 2, "scale": 2}, 2, 1.0)


few = module_of_few_passes(8)


@pytest.fixture(scope="module")
def edsr() -> RestorationModel:
    torch.manual_seed(0)
    return build_model(EDSR)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    generator = torch.Generator().manual_seed(0)
    return Calibration(torch.rand(8, 3, 16, 16, generator=generator), 2**28)


@pytest.fixture(scope="module")
def permuted(edsr: RestorationModel, calibration: Calibration) -> Permutation:
    layers = find_layers(edsr, Pattern.parse("2:4"), trace(edsr, 16))
    return permute(trace(edsr, 16), edsr, [x for x in layers if x.prunable], calibration)


def test_network_in_its_new_order_computes_the_same(
    edsr: RestorationModel, permuted: Permutation
) -> None:
    assert permuted.streams > 0
    assert computes_the_same(edsr, permuted.model)
    before, after = (
        item.network.get_parameter("body.0.body.2.weight") for item in (edsr, permuted.model)
    )
    assert not torch.equal(before, after)


def test_every_layer_is_told_and_more_is_kept(permuted: Permutation) -> None:
    assert all(0 <= gain.before <= gain.unconstrained <= 1 for gain in permuted.gains)
    assert all(gain.after <= gain.unconstrained for gain in permuted.gains)
    assert np.mean([gain.regained for gain in permuted.gains]) > 0.1


def test_interiors_of_blocks_regain_a_third_of_the_gap(permuted: Permutation) -> None:
    inner = [gain.regained for gain in permuted.gains if gain.name.endswith(".body.2")]
    assert len(inner) == 2
    assert min(inner) > 0.3


def test_importance_tells_what_removing_a_weight_does_to_the_picture(
    edsr: RestorationModel, calibration: Calibration
) -> None:
    name = "body.0.body.2"
    importance = measure_importance(trace(edsr, 16), edsr, [name], calibration)[name, 0]
    filters, channels, height, width = edsr.network.get_parameter(f"{name}.weight").shape
    table = importance.reshape(filters, height * width, channels)
    places = [(number % filters, number % 9, number % channels) for number in range(0, 160, 7)]
    _, sums = next(dense_sums(trace(edsr, 16), edsr, [name], calibration))
    weight = edsr.network.get_parameter(f"{name}.weight").detach()
    sums = sums[0].detach()
    problem = Problem.of(weight.flatten(2), sums, weight.flatten(1).double() @ sums)
    inverse = problem.hessian.inverse()
    losses = [_loss(edsr, calibration.pictures, name, place, inverse) for place in places]
    told = [table[place] for place in places]
    assert np.corrcoef(np.log(losses), np.log(told))[0, 1] > 0.9


@torch.no_grad()
def _loss(
    model: RestorationModel,
    pictures: Tensor,
    name: str,
    place: tuple[int, int, int],
    inverse: Tensor,
) -> float:
    """Mean square of what removing one weight changes, once its filter is corrected."""
    weight = model.network.get_parameter(f"{name}.weight").detach()
    whole, (number, tap, channel) = model(pictures), place
    kept, column = weight.clone(), channel * 9 + tap
    row = weight[number].flatten()
    row -= row[column].item() * (inverse[column] / inverse[column, column]).float()
    loss = float((model(pictures) - whole).square().mean())
    weight.copy_(kept)
    return loss


def test_search_says_what_the_new_order_keeps(dense: Path, photos: Path, tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "model": {"weights": dense},
            "data": DataConfig(photos=photos, held_out=2),
            "search": SearchConfig(method="reconstruct", patch=24, crops=8),
        }
    )
    result = search_budgets(config, tmp_path / "run")
    assert result.budgets[0].permutation is not None
    told = json.loads((tmp_path / "run/search/b0.50/permutation.json").read_text())
    assert told["streams"] > 0
    assert {"name", "before", "after", "unconstrained", "regained"} == set(told["layers"][0])


def test_search_can_leave_the_order_alone(dense: Path, photos: Path, tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "model": {"weights": dense},
            "data": DataConfig(photos=photos, held_out=2),
            "search": SearchConfig(method="reconstruct", patch=24, crops=8, permute=False),
        }
    )
    assert search_budgets(config, tmp_path / "run").budgets[0].permutation is None


def test_interrupted_search_goes_on_in_the_same_order(config: Config, tmp_path: Path) -> None:
    search = config.search.model_copy(update={"permute": True, "crops": 8})
    config = config.model_copy(update={"search": search})
    search_budgets(config, tmp_path / "whole")
    tasks: list[str] = []

    def stop(progress: Progress) -> None:
        if progress.task.startswith("search") and progress.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_budgets(config, tmp_path / "cut", stop)
    search_budgets(config, tmp_path / "cut", lambda progress: tasks.append(progress.task))
    assert "permute channels" not in tasks
    for name in ("weights.safetensors", "ratios.json"):
        whole, cut = (tmp_path / run / "search/b0.40" / name for run in ("whole", "cut"))
        assert hash_file(whole) == hash_file(cut)
