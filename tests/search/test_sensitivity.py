"""Estimates of what a change does to the output, against what it does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from sls_deploy.data.bicubic import downscale
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import RestorationModel, build_model, load_model
from sls_deploy.search.interiors import Interior, find_interiors
from sls_deploy.search.reconstruct import Choice, reconstruct
from sls_deploy.search.sensitivity import Sensitivity, measure_sensitivity
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.least_squares import Problem
from sls_deploy.sparsity.obs import remove_units
from sls_deploy.sparsity.pattern import Pattern

PAIRS, N16 = Pattern.parse("2:4"), Pattern.parse("n:16")
MEMORY = 2**28
BLOCKS = [f"body.{block}.body.{place}" for block in range(2) for place in (0, 2)]


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Crops of real photographs, halved as the network expects."""
    photos = sample_photos()
    found = []
    for name in ("astronaut", "chelsea", "coffee", "motorcycle_left"):
        picture = torch.from_numpy(downscale(photos[name][:192, :192], 2)).float() / 255
        found += [picture[30:54, left : left + 24].permute(2, 0, 1) for left in (10, 50)]
    return Calibration(torch.stack(found), MEMORY)


@pytest.fixture(scope="module")
def demo() -> tuple[Trace, RestorationModel]:
    model = load_model(DEMO_WEIGHTS)
    return trace(model, 32), model


@pytest.fixture(scope="module")
def interiors(demo: tuple[Trace, RestorationModel]) -> list[Interior]:
    return find_interiors(demo[0], BLOCKS)


@pytest.fixture(scope="module")
def by_units(demo: tuple[Trace, RestorationModel], calibration: Calibration) -> Sensitivity:
    return measure_sensitivity(*demo, BLOCKS[1::2], N16, [], 1, calibration, 96)


@pytest.fixture(scope="module")
def by_width(
    demo: tuple[Trace, RestorationModel], interiors: list[Interior], calibration: Calibration
) -> Sensitivity:
    return measure_sensitivity(*demo, BLOCKS, PAIRS, interiors, 8, calibration, 96)


def error(model: RestorationModel, weights: dict[str, Tensor], pictures: Tensor) -> float:
    """Mean squared difference of the output with other weights."""
    with torch.inference_mode():
        changed = torch.func.functional_call(
            model, {f"network.{name}": weight for name, weight in weights.items()}, (pictures,)
        )
        return float((changed - model(pictures)).square().mean())


def test_estimates_agree_with_the_output_of_each_change(
    demo: tuple[Trace, RestorationModel], by_units: Sensitivity, calibration: Calibration
) -> None:
    estimated, measured = [], []
    model = demo[1]
    with torch.no_grad():
        sums = list(dense_sums(*demo, BLOCKS[1::2], calibration))
    for name, hessian in sums:
        weight = model.network.get_parameter(f"{name}.weight").detach()
        flat = weight.flatten(2)
        problem = Problem.of(flat, hessian[0], flat.flatten(1).double() @ hessian[0])
        for step in remove_units(problem, N16):
            pruned = step.weight.view(weight.shape)
            estimated.append(by_units.layers[name][step.units])
            measured.append(error(model, {f"{name}.weight": pruned}, calibration.pictures))
    ratios = np.array(estimated) / np.array(measured)
    first, second = (np.argsort(np.argsort(values)) for values in (estimated, measured))
    assert 0.67 < np.median(ratios) < 1.5
    assert np.quantile(ratios, 0.05) > 0.4
    assert np.quantile(ratios, 0.95) < 2.5
    assert np.corrcoef(first.astype(float), second.astype(float))[0, 1] > 0.95


def test_estimates_of_narrowed_interiors_agree_with_the_output(
    demo: tuple[Trace, RestorationModel],
    interiors: list[Interior],
    by_width: Sensitivity,
    calibration: Calibration,
) -> None:
    graph, model = demo
    for interior in interiors:
        kept = by_width.channels[interior][:16].sort().values
        choice = Choice(dict.fromkeys(interior.consumers, PAIRS.units), ((interior, kept),))
        weights = reconstruct(graph, model, PAIRS, choice, calibration)
        measured = error(model, weights, calibration.pictures)
        # Channels that never fire cost nothing but rounding.
        estimated = by_width.interiors[interior][16]
        assert 0.4 * measured - 1e-12 < estimated < 2.5 * measured + 1e-12


def test_all_levels_of_n_m_are_there_and_all_units_lose_nothing(by_units: Sensitivity) -> None:
    assert list(by_units.layers) == BLOCKS[1::2]
    for losses in by_units.layers.values():
        assert sorted(losses) == list(range(1, 17))
        assert losses[16] == 0
        assert all(loss > 0 for units, loss in losses.items() if units < 16)


def test_fewer_units_lose_more(by_units: Sensitivity) -> None:
    for losses in by_units.layers.values():
        assert losses[1] > losses[4] > losses[8] > losses[12]


def test_pattern_2_4_has_dense_and_2_4_alone(by_width: Sensitivity) -> None:
    for losses in by_width.layers.values():
        assert sorted(losses) == [1, PAIRS.units]
        assert losses[PAIRS.units] == 0


def test_widths_are_multiples_and_narrower_ones_lose_more(
    by_width: Sensitivity, interiors: list[Interior]
) -> None:
    assert list(by_width.interiors) == interiors
    for losses in by_width.interiors.values():
        assert sorted(losses) == [8, 16, 24, 32]
        assert losses[8] >= losses[16] >= losses[24] >= losses[32] == 0
    assert by_width.interiors[interiors[0]][8] > by_width.interiors[interiors[0]][16] > 0


def test_channels_are_ranked_by_what_they_contribute(
    demo: tuple[Trace, RestorationModel],
    interiors: list[Interior],
    by_width: Sensitivity,
    calibration: Calibration,
) -> None:
    model = demo[1]
    for interior in interiors:
        order = by_width.channels[interior]
        assert sorted(order.tolist()) == list(range(32))
        name = f"{interior.consumers[0]}.weight"
        cut = []
        for dropped in (order[:8], order[-8:]):
            weight = model.network.get_parameter(name).detach().clone()
            weight[:, dropped] = 0
            cut.append(error(model, {name: weight}, calibration.pictures))
        assert cut[0] > 2 * cut[1]


def test_network_is_left_as_it_was(calibration: Calibration) -> None:
    torch.manual_seed(0)
    options = {"features": 8, "scale": 2, "shared": True, "efficient": True, "groups": 2}
    model = build_model(Description("carn", options, 2, 1.0)).eval()
    model.network.get_parameter("b1.c1.body.0.weight").requires_grad_(False)
    before = copy.deepcopy(model)
    seen: list[int] = []
    names = ["b1.b1.body.0", "b1.c1.body.0"]
    found = measure_sensitivity(
        trace(model, 24), model, names, PAIRS, [], 8, calibration, 4, seen.append
    )
    # Group convolutions and layers used three times have estimates as well.
    assert all(found.layers[name][1] > 0 for name in names)
    assert seen == list(range(6))
    for one, same in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, same)
        assert one.requires_grad == same.requires_grad
        assert one.grad is None


def test_estimates_are_the_same_every_time(
    demo: tuple[Trace, RestorationModel], calibration: Calibration
) -> None:
    one, same = (
        measure_sensitivity(*demo, BLOCKS[:1], PAIRS, [], 8, calibration, 2) for _ in range(2)
    )
    assert one.layers == same.layers


def test_metric_predicts_how_errors_of_a_layers_outputs_move_the_result(
    demo: tuple[Trace, RestorationModel], by_units: Sensitivity, calibration: Calibration
) -> None:
    model, name, size = demo[1], BLOCKS[3], 1e-3
    metric = by_units.metric[name]
    assert metric.shape == (len(metric), len(metric))
    torch.testing.assert_close(metric, metric.T)
    values, directions = torch.linalg.eigh(metric)
    assert values[-1] > 3 * values.mean()
    layer = model.network.get_submodule(name)

    def moved(direction: Tensor) -> float:
        """Mean square of the result's change where noise of one direction joins the output."""
        generator = torch.Generator().manual_seed(0)

        def add(_: object, __: object, output: Tensor) -> Tensor:
            noise = torch.randn(output[:, :1].shape, generator=generator) * size
            return output + noise * direction.float().view(1, -1, 1, 1)

        with torch.inference_mode():
            before = model(calibration.pictures)
            hook = layer.register_forward_hook(add)
            after = model(calibration.pictures)
            hook.remove()
        return float((after - before).square().mean())

    most, usual = moved(directions[:, -1]), moved(directions[:, -3])
    assert most / usual == pytest.approx(float(values[-1] / values[-3]), rel=0.4)


def test_weights_that_overflow_name_the_layer(
    demo: tuple[Trace, RestorationModel], calibration: Calibration
) -> None:
    graph, broken = demo[0], copy.deepcopy(demo[1])
    broken.network.get_parameter("body.1.body.2.weight").data.mul_(1e38)
    names = ["body.1.body.2"]
    with pytest.raises(SlsError, match=r"^body\.1\.body\.2: its weights or inputs are too large"):
        measure_sensitivity(graph, broken, names, PAIRS, [], 1, calibration, 1)


def test_activations_in_place_change_nothing(
    demo: tuple[Trace, RestorationModel], calibration: Calibration
) -> None:
    graph, model = demo[0], copy.deepcopy(demo[1])
    rest = (BLOCKS[::2], PAIRS, [], 1, calibration, 8)
    expected = measure_sensitivity(graph, model, *rest)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = True
    found = measure_sensitivity(graph, model, *rest)
    assert found.layers == expected.layers
    for name, metric in found.metric.items():
        assert torch.equal(metric, expected.metric[name])
