"""Pruning and correcting the bundled network, and one with shared and grouped layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from sls_deploy.data.bicubic import downscale
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import RestorationModel, build_model, load_model
from sls_deploy.models.narrow import select
from sls_deploy.search.interiors import find_interiors, kept_channels
from sls_deploy.search.layers import find_layers
from sls_deploy.search.reconstruct import Choice, reconstruct, refit
from sls_deploy.search.sensitivity import output_metric
from sls_deploy.search.sums import Calibration
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

PAIRS, N16 = Pattern.parse("2:4"), Pattern.parse("n:16")
CARN_M = {"features": 16, "scale": 2, "shared": True, "efficient": True, "groups": 2}


class Dense:
    """A network with all that its reconstruction needs."""

    def __init__(self, model: RestorationModel, crops: Tensor) -> None:
        self.model, self.graph = model, trace(model, crops.shape[-1])
        self.crops, self.unseen = crops[::2], crops[1::2]
        layers = find_layers(model, N16, (32, 32))
        self.names = [layer.name for layer in layers if layer.prunable]
        self.blocks, self.body = self.names[:6], self.names[:-1]
        """Those of three blocks, and all but the wide one in front of the pixel shuffle."""

    def pruned(
        self, pattern: Pattern, choice: Choice, metric: Mapping[str, Tensor] | None = None
    ) -> RestorationModel:
        """A pruned and corrected copy."""
        calibration = Calibration(self.crops, 2**28)
        weights = reconstruct(self.graph, self.model, pattern, choice, calibration, metric=metric)
        return self.with_weights(weights)

    def with_weights(self, weights: Mapping[str, Tensor]) -> RestorationModel:
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, weight in weights.items():
                model.network.get_parameter(name).copy_(weight)
        return model

    def by_magnitude(self, pattern: Pattern, units: Mapping[str, int]) -> RestorationModel:
        """Pruned and not corrected."""
        weights = {}
        for name, count in units.items():
            weight = self.model.network.get_parameter(f"{name}.weight").detach()
            weights[f"{name}.weight"] = weight * (rank_units(weight, pattern) < count)
        return self.with_weights(weights)

    def error(self, other: RestorationModel) -> float:
        """Mean squared difference to the dense network on crops that nothing was fitted to."""
        with torch.inference_mode():
            return float((other(self.unseen) - self.model(self.unseen)).square().mean())


def weight_of(model: RestorationModel, name: str) -> Tensor:
    return model.network.get_parameter(f"{name}.weight").detach()


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """16 crops of real photographs, halved as the network expects, NCHW."""
    photos = sample_photos()
    found = []
    for name in ("astronaut", "chelsea", "coffee", "motorcycle_left"):
        picture = torch.from_numpy(downscale(photos[name][:288, :288], 2)).float() / 255
        found += [
            picture[top : top + 24, left : left + 24].permute(2, 0, 1)
            for top in (24, 84)
            for left in (10, 70)
        ]
    return torch.stack(found)


@pytest.fixture(scope="module")
def demo(crops: Tensor) -> Dense:
    return Dense(load_model(DEMO_WEIGHTS), crops)


@pytest.fixture(scope="module")
def metric(demo: Dense) -> dict[str, Tensor]:
    """What the output feels of the errors of each layer."""
    return output_metric(demo.graph, demo.model, demo.body, Calibration(demo.crops, 2**28), 32)


@pytest.fixture(scope="module")
def carn_m(crops: Tensor) -> Dense:
    """Shared and grouped layers, with fresh weights."""
    torch.manual_seed(0)
    return Dense(build_model(Description("carn", CARN_M, 2, 1.0)).eval(), crops[:4])


@pytest.mark.parametrize("network", ["demo", "carn_m"])
def test_with_nothing_pruned_the_output_stays(network: str, request: pytest.FixtureRequest) -> None:
    dense: Dense = request.getfixturevalue(network)
    same = dense.pruned(N16, Choice(dict.fromkeys(dense.names, N16.units)))
    with torch.inference_mode():
        torch.testing.assert_close(
            same(dense.unseen), dense.model(dense.unseen), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("pattern", "units"), [(PAIRS, 1), (N16, 4)])
def test_correction_beats_magnitude_at_the_same_counts(
    demo: Dense, pattern: Pattern, units: int
) -> None:
    counts = dict.fromkeys(demo.blocks, units)
    corrected = demo.error(demo.pruned(pattern, Choice(counts)))
    assert corrected < 0.2 * demo.error(demo.by_magnitude(pattern, counts))


def test_filters_corrected_together_lose_less_on_unseen_crops(
    demo: Dense, metric: dict[str, Tensor]
) -> None:
    choice = Choice(dict.fromkeys(demo.blocks, 1))
    together = demo.error(demo.pruned(PAIRS, choice, metric))
    assert together < 0.97 * demo.error(demo.pruned(PAIRS, choice))


def test_layers_keep_as_many_weights_as_chosen(demo: Dense) -> None:
    counts = {name: 3 + 2 * place for place, name in enumerate(demo.blocks)}
    pruned = demo.pruned(N16, Choice(counts))
    for name, units in counts.items():
        weight = weight_of(pruned, name)
        expected = rank_units(weight_of(demo.model, name), N16) < units
        assert int((weight != 0).sum()) == int(expected.sum())
        assert is_2_4(weight.numpy()) or units > 8


def test_layers_that_are_not_named_are_left_as_they_are(demo: Dense) -> None:
    chosen = demo.names[2]
    pruned = demo.pruned(PAIRS, Choice({chosen: 1})).network.state_dict()
    before = demo.model.network.state_dict()
    changed = [key for key in before if not torch.equal(before[key], pruned[key])]
    assert changed == [f"{chosen}.weight"]


def test_given_network_is_left_as_it_was(demo: Dense) -> None:
    before = copy.deepcopy(demo.model.network.state_dict())
    learnt = [parameter.requires_grad for parameter in demo.model.parameters()]
    demo.pruned(PAIRS, Choice(dict.fromkeys(demo.names[:3], 1)))
    after = demo.model.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [parameter.requires_grad for parameter in demo.model.parameters()] == learnt


def test_layers_are_reported_in_the_order_in_which_they_run(demo: Dense) -> None:
    seen: list[str] = []
    counts = dict.fromkeys(reversed(demo.names[:3]), PAIRS.units)
    calibration = Calibration(demo.crops, 2**28)
    reconstruct(demo.graph, demo.model, PAIRS, Choice(counts), calibration, seen.append)
    assert seen == demo.names[:3]


def test_shared_and_grouped_layers_are_pruned_in_every_group(carn_m: Dense) -> None:
    # Groups of 8 and of 16 input channels; the blocks run three times.
    counts = dict.fromkeys(carn_m.names, 4)
    pruned = carn_m.pruned(N16, Choice(counts))
    for name in carn_m.names:
        weight = weight_of(pruned, name)
        expected = rank_units(weight_of(carn_m.model, name), N16) < 4
        assert torch.equal((weight != 0).sum(1), expected.sum(1))
        assert is_2_4(weight.numpy())
    assert carn_m.error(pruned) < 0.6 * carn_m.error(carn_m.by_magnitude(N16, counts))


@pytest.fixture(scope="module")
def narrowed(demo: Dense) -> tuple[Choice, RestorationModel]:
    """Two interiors with some of their channels, and layers that are 2:4."""
    interiors = find_interiors(demo.graph, demo.names)
    kept = (torch.arange(0, 32, 2), torch.tensor([1, 2, 3, 5, 8, 13, 21, 30]))
    choice = Choice(dict.fromkeys(demo.blocks, 1), tuple(zip(interiors[:2], kept, strict=True)))
    return choice, demo.pruned(PAIRS, choice)


def test_dropped_channels_are_zero_at_both_ends(
    narrowed: tuple[Choice, RestorationModel],
) -> None:
    choice, pruned = narrowed
    for interior, kept in choice.narrowed:
        dropped = [channel for channel in range(32) if channel not in kept.tolist()]
        (producer,), (consumer,) = interior.producers, interior.consumers
        assert not weight_of(pruned, producer)[dropped].any()
        assert not weight_of(pruned, consumer)[:, dropped].any()
        assert weight_of(pruned, producer)[kept].any()


def test_narrowed_network_gives_the_same_pictures(
    demo: Dense, narrowed: tuple[Choice, RestorationModel]
) -> None:
    choice, pruned = narrowed
    smaller = select(pruned, kept_channels(choice.narrowed))
    with torch.inference_mode():
        torch.testing.assert_close(smaller(demo.unseen), pruned(demo.unseen), rtol=1e-4, atol=1e-4)


def test_narrowed_layers_are_2_4_over_what_is_kept(
    narrowed: tuple[Choice, RestorationModel],
) -> None:
    choice, pruned = narrowed
    smaller = select(pruned, kept_channels(choice.narrowed))
    for name in choice.units:
        weight = weight_of(smaller, name)
        assert is_2_4(weight.numpy())
        assert int((weight != 0).sum()) == weight.numel() // 2


def test_correction_of_a_narrowed_network_beats_cutting_it(demo: Dense) -> None:
    interior = find_interiors(demo.graph, demo.names)[1]
    kept = torch.arange(16)
    counts = dict.fromkeys((*interior.producers, *interior.consumers), PAIRS.units)
    corrected = demo.pruned(PAIRS, Choice(counts, ((interior, kept),)))
    cut = copy.deepcopy(demo.model)
    with torch.no_grad():
        weight_of(cut, interior.consumers[0])[:, 16:] = 0
    assert demo.error(corrected) < 0.9 * demo.error(cut)


def test_later_layers_make_up_for_earlier_ones(demo: Dense) -> None:
    """Pruned inputs and dense targets: solving what follows as dense still corrects."""
    first, *following = demo.names
    alone = demo.pruned(N16, Choice({first: 2}))
    units = {first: 2, **dict.fromkeys(following, N16.units)}
    assert demo.error(demo.pruned(N16, Choice(units))) < 0.9 * demo.error(alone)


def test_inputs_that_are_not_finite_name_the_layer(demo: Dense) -> None:
    broken = copy.deepcopy(demo.model)
    with torch.no_grad():
        weight_of(broken, "body.1.body.0")[0, 0, 0, 0] = float("nan")
    choice, calibration = Choice({"body.1.body.2": 1}), Calibration(demo.crops, 2**28)
    with pytest.raises(SlsError, match=r"^body\.1\.body\.2: activations are NaN"):
        reconstruct(demo.graph, broken, PAIRS, choice, calibration)


def test_graph_serves_networks_with_other_weights(demo: Dense, crops: Tensor) -> None:
    graph: Trace = demo.graph
    zero = demo.with_weights({"head.0.weight": torch.zeros_like(weight_of(demo.model, "head.0"))})
    weights = reconstruct(graph, zero, PAIRS, Choice({demo.names[0]: 1}), Calibration(crops, 2**28))
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("narrowed", [False, True])
def test_refit_keeps_masks_and_repairs_what_was_disturbed(
    demo: Dense, metric: dict[str, Tensor], narrowed: bool
) -> None:
    interiors = find_interiors(demo.graph, demo.names)[:1] if narrowed else []
    kept = [(item, torch.arange(0, item.channels, 2)) for item in interiors]
    choice = Choice(dict.fromkeys(demo.body, 1), tuple(kept))
    student = select(demo.pruned(PAIRS, choice), kept_channels(kept))
    masks = {f"{name}.weight": (weight_of(student, name) != 0).float() for name in demo.body}
    with torch.no_grad():
        for name, mask in masks.items():
            weight = student.network.get_parameter(name)
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            weight += noise * mask * weight.std()
    calibration = Calibration(demo.crops, 2**28)
    weights = refit(demo.graph, demo.model, student, masks, calibration, metric)
    narrow = {name for item in interiors for name in (*item.producers, *item.consumers)}
    assert weights.keys() == {f"{name}.weight" for name in demo.body if name not in narrow}
    repaired = copy.deepcopy(student)
    with torch.no_grad():
        for name, weight in weights.items():
            assert not weight[masks[name] == 0].any()
            repaired.network.get_parameter(name).copy_(weight)
    assert demo.error(repaired) < 0.2 * demo.error(student)
