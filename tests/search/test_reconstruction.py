from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sls_deploy.config import SearchConfig
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.images import write_image
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.progress import Progress, silent
from sls_deploy.search.cost import CostModel, ExecutableCost, MacsCost
from sls_deploy.search.layers import find_layers
from sls_deploy.search.outcome import Outcome
from sls_deploy.search.reconstruct import Choice
from sls_deploy.search.reconstruction import Candidate, Reconstruction
from sls_deploy.search.sls import held_out_psnr
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.pattern import Pattern
from tests.conftest import module_of_few_passes

MACS = MacsCost()


def work_on(
    photos: Path, cost: CostModel = MACS, weights: Path = DEMO_WEIGHTS, **search: Any
) -> Reconstruction:
    """The bundled network, if no other is named, and 12 crops of 16 pixels."""
    settings = {"pattern": "2:4", "patch": 16, "batch": 2, "crops": 12, "narrow": 8}
    config = SearchConfig(**{**settings, **search})
    pattern, model = Pattern.parse(config.pattern), load_model(weights)
    layers = find_layers(model, pattern, (config.patch, config.patch))
    pictures = Photos.from_folder(photos, Bicubic(2), 64, min_side=2 * config.patch)
    return Reconstruction(
        model,
        [layer for layer in layers if layer.prunable],
        pattern,
        cost,
        CropSampler(pictures, config.patch, config.batch, 0),
        held_out(pictures, 4, config.patch),
        config,
    )


few = module_of_few_passes(24)


@pytest.fixture(scope="module")
def work(photos: Path) -> Reconstruction:
    return work_on(photos)


@pytest.fixture(scope="module")
def half(work: Reconstruction) -> Candidate:
    return work.allocated(0.5, silent)


@pytest.fixture(scope="module")
def third(work: Reconstruction) -> Candidate:
    return work.allocated(0.35, silent)


def share(work: Reconstruction, found: Candidate) -> float:
    """Cost of a candidate's prunable layers."""
    outcome = Outcome(found.model, found.model.network.state_dict(), found.units, found.psnr, 0)
    return outcome.share(work.layers, work.pattern, MACS)


def test_half_of_the_cost_is_met(work: Reconstruction, half: Candidate) -> None:
    assert 0.49 < share(work, half) <= 0.5 + 1e-9


def test_third_of_the_cost_is_met_by_narrowing(work: Reconstruction, third: Candidate) -> None:
    assert 0.33 < share(work, third) <= 0.35 + 1e-9
    assert third.model.description.widths


@pytest.mark.parametrize("candidate", ["half", "third"])
def test_layers_are_dense_or_2_4_as_stated(
    candidate: str, work: Reconstruction, request: pytest.FixtureRequest
) -> None:
    found: Candidate = request.getfixturevalue(candidate)
    assert found.units.keys() == {layer.name for layer in work.layers}
    assert set(found.units.values()) <= {1, work.pattern.units}
    for name, units in found.units.items():
        weight = found.model.network.get_parameter(f"{name}.weight").detach().numpy()
        assert is_2_4(weight) == (units == 1)


def test_psnr_is_that_of_the_model_on_the_held_out_crops(
    work: Reconstruction, half: Candidate, third: Candidate
) -> None:
    assert half.psnr == held_out_psnr(half.model, work.held_out)
    dense = held_out_psnr(work.model, work.held_out)
    assert third.psnr < half.psnr < dense + 0.05
    assert half.psnr > dense - 1


def test_dense_network_is_left_as_it_was(
    work: Reconstruction, half: Candidate, third: Candidate
) -> None:
    fresh = load_model(DEMO_WEIGHTS)
    assert work.model.description == fresh.description
    for key, value in fresh.network.state_dict().items():
        assert torch.equal(work.model.network.state_dict()[key], value)


def test_sensitivity_is_measured_once_for_all_budgets(
    work: Reconstruction, half: Candidate
) -> None:
    reports: list[Progress] = []
    assert work.sensitivity(reports.append) is work.sensitivity(reports.append)
    assert not reports


def test_progress_counts_up_to_its_total(work: Reconstruction) -> None:
    reports: list[Progress] = []
    units = {layer.name: work.pattern.units for layer in work.layers[:3]}
    work.reconstructed("learnt", Choice(units), reports.append)
    assert [(report.task, report.done, report.total) for report in reports] == [
        ("reconstruct learnt", place, 3) for place in range(3)
    ]


def test_copy_of_a_candidate_is_its_own(half: Candidate) -> None:
    copied = half.copy()
    with torch.no_grad():
        copied.network.get_parameter("head.0.weight").zero_()
    assert half.model.network.get_parameter("head.0.weight").any()


def test_budget_below_the_least_is_refused_with_what_can_be_reached(work: Reconstruction) -> None:
    with pytest.raises(SlsError, match=r"^--budget: 0\.01 is below what pattern 2:4 can reach"):
        work.check_reachable(0.01)
    with pytest.raises(SlsError, match=r"^--budget: 0\.01 cannot be met"):
        work.allocated(0.01, silent)


def test_without_narrowing_a_half_is_the_least_and_is_met(photos: Path, dense: Path) -> None:
    work = work_on(photos, weights=dense, narrow=0)
    work.check_reachable(0.5)
    found = work.allocated(0.5, silent)
    assert set(found.units.values()) == {1}
    assert share(work, found) == pytest.approx(0.5)
    assert not found.model.description.widths
    with pytest.raises(SlsError, match=r"--budget: 0\.49 .* larger M"):
        work.check_reachable(0.49)


@pytest.mark.parametrize(
    ("pattern", "fix"),
    [("2:4", r"Ask for 0\.5 or more\.$"), ("n:16", "or use pattern 2:4, which narrows blocks")],
)
def test_a_larger_group_is_not_advised_where_it_gains_nothing(
    photos: Path, pattern: str, fix: str
) -> None:
    work = work_on(photos, ExecutableCost(), pattern=pattern, narrow=0)
    with pytest.raises(SlsError, match=fix):
        work.check_reachable(0.3)


def test_learnt_ratios_are_reconstructed_under_the_budget(photos: Path, dense: Path) -> None:
    work = work_on(photos, weights=dense, pattern="n:4", crops=4)
    assert work.least_learnt == pytest.approx(0.25)
    found = work.learnt(0.5, 4, silent)
    assert found.source == "learnt"
    assert share(work, found) <= 0.5 + 1e-9
    for name, units in found.units.items():
        weight = found.model.network.get_parameter(f"{name}.weight")
        assert int((weight != 0).sum()) == weight.numel() * units // 4


def test_crops_with_the_most_texture_are_taken(work: Reconstruction) -> None:
    drawn = work.sampler.of_size(48).batch(0)[0].std((1, 2, 3)).sort(descending=True).values
    assert torch.equal(work.calibration.pictures.std((1, 2, 3)), drawn[:12])


def test_memory_that_holds_fewer_crops_is_noted(photos: Path) -> None:
    work = work_on(photos, crops=200, memory=64)
    taken = len(work.calibration.pictures)
    assert 8 <= taken < 200
    assert work.notes == [f"--memory 64 holds {taken} of 200 crops"]


def test_photographs_of_one_colour_are_noted_and_give_finite_weights(
    tmp_path: Path, dense: Path
) -> None:
    write_image(tmp_path / "grey.png", np.full((64, 64, 3), 128, np.uint8))
    work = work_on(tmp_path, weights=dense, crops=4)
    choice = Choice({layer.name: 1 for layer in work.layers[:2]})
    found = work.reconstructed("allocated", choice, silent)
    assert ["one colour" in note for note in work.notes] == [True]
    assert all(parameter.isfinite().all() for parameter in found.model.parameters())
