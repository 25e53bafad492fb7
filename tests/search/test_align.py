"""Channels of zeros that make layers eligible."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sls_deploy.config import ModelConfig
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import (
    RestorationModel,
    build_model,
    load_like,
    load_model,
    save_weights,
)
from sls_deploy.search.align import align, alignment_facts
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.search.reorder import computes_the_same
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.pattern import Pattern

RFDN = Description(
    "rfdn", {"features": 10, "distilled": 5, "attention": 4, "blocks": 2, "scale": 2}, 2, 255.0
)


@cache
def graph_of(model: RestorationModel) -> Trace:
    return trace(model, 48)


def layers_of(model: RestorationModel) -> list[Layer]:
    return find_layers(model, Pattern.parse("2:4"), graph_of(model))


def aligned(model: RestorationModel, multiple: int = 4) -> RestorationModel:
    prunable = [layer for layer in layers_of(model) if layer.prunable]
    return align(graph_of(model), model, prunable, multiple).model


def inputs(model: RestorationModel) -> dict[str, int]:
    return {layer.name: layer.inputs for layer in layers_of(model)}


@pytest.fixture(scope="module")
def rfdn() -> RestorationModel:
    torch.manual_seed(0)
    return build_model(RFDN)


@pytest.fixture(scope="module")
def in_fours(rfdn: RestorationModel) -> RestorationModel:
    """The same with channels filled up to multiples of four."""
    return aligned(rfdn)


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_all_prunable_layers_become_eligible(
    rfdn: RestorationModel, in_fours: RestorationModel, multiple: int
) -> None:
    larger = in_fours if multiple == 4 else aligned(rfdn, multiple)
    found = [layer for layer in layers_of(larger) if layer.prunable]
    assert [layer.name for layer in found if layer.why_not_eligible] == []
    assert computes_the_same(rfdn, larger)


def test_each_segment_of_a_concatenation_gets_its_own(in_fours: RestorationModel) -> None:
    weight = in_fours.network.get_parameter("c.0.weight")
    silent = (weight == 0).all(dim=3).all(dim=2).all(dim=0)
    assert silent.nonzero().flatten().tolist() == [10, 11, 22, 23]


def test_layers_that_are_eligible_already_keep_their_size() -> None:
    torch.manual_seed(0)
    model = build_model(Description("edsr", {"features": 8, "blocks": 1, "scale": 2}, 2, 1.0))
    assert aligned(model) is model


def test_larger_network_is_loaded_again(
    rfdn: RestorationModel, in_fours: RestorationModel, tmp_path: Path
) -> None:
    path = save_weights(tmp_path / "larger.safetensors", in_fours)
    again = load_model(path, ModelConfig())
    assert inputs(again) == inputs(in_fours)
    assert computes_the_same(rfdn, again)
    assert computes_the_same(rfdn, load_like(path, in_fours))


def test_cost_and_gain_are_told(rfdn: RestorationModel, in_fours: RestorationModel) -> None:
    facts = alignment_facts(layers_of(rfdn), layers_of(in_fours))
    assert facts is not None
    assert facts["eligible_before"] < facts["eligible_after"] == facts["prunable"]
    assert facts["layers"]["c.0"] == [20, 24]
    assert 0 < facts["more_macs"] < 1


class Middle(nn.Module):
    """Layers between a convolution to six channels and one from six."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.inner, self.back = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 1)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        return self.last(self.back(self.layers(self.inner(self.first(x)))))  # type: ignore[no-any-return]


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Swap the halves of six channels, whose number stands here."""
        return torch.cat([x[:, 3:6], x[:, :3]], 1)


class Shuffled(nn.Module):
    """The prunable layer behind a pixel shuffle reads six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 24, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.inner, self.last = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW of twice the sides."""
        return self.last(self.inner(self.shuffle(self.wide(self.first(x)))))  # type: ignore[no-any-return]


def model_of(network: nn.Module, scale: int = 1) -> RestorationModel:
    torch.manual_seed(0)
    return RestorationModel(network, Description("mine", {}, scale, 1.0)).eval()


def test_whole_block_in_front_of_a_pixel_shuffle_is_added() -> None:
    model = model_of(Shuffled(), scale=2)
    larger = aligned(model)
    assert larger.network.get_parameter("wide.weight").shape[0] == 32
    assert inputs(larger)["inner"] == 8
    assert computes_the_same(model, larger)


@pytest.mark.parametrize("layer", [nn.PReLU(6), nn.BatchNorm2d(6), nn.Sigmoid()], ids=str)
def test_what_works_channel_by_channel_grows_along(layer: nn.Module) -> None:
    model = model_of(Middle(layer))
    larger = aligned(model)
    assert inputs(larger) == {"first": 3, "inner": 8, "back": 8, "last": 8}
    assert computes_the_same(model, larger)


@pytest.mark.parametrize(
    "layer",
    [Halves(), nn.Conv2d(6, 6, 1, groups=6), nn.GroupNorm(2, 6), nn.GroupNorm(1, 6)],
    ids=["split", "depthwise", "group norm", "layer norm"],
)
def test_what_names_or_sums_up_its_channels_stays(layer: nn.Module) -> None:
    assert inputs(aligned(model_of(Middle(layer))))["back"] == 6


class Judged(nn.Module):
    """Says itself how many channels it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        x = self.first(x)
        if x.shape[1] != 6:
            raise AssertionError("not my channels")
        return self.last(self.inner(x))  # type: ignore[no-any-return]


def test_network_that_insists_on_its_channels_keeps_them() -> None:
    model = model_of(Judged())
    prunable = [layer for layer in layers_of(model) if layer.prunable]
    found = align(graph_of(model), model, prunable, 4)
    assert found == (model, 1)


def test_one_set_that_cannot_be_filled_up_leaves_the_others() -> None:
    class Two(Middle):
        def forward(self, x: Tensor) -> Tensor:
            """The inverse of six channels, where a channel of zeros becomes infinite."""
            return self.last(self.back(1 / (2 + self.inner(1 / self.first(x)))))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = model_of(Two())
    larger = aligned(model)
    assert inputs(larger) == {"first": 3, "inner": 6, "back": 8, "last": 8}


def test_network_filled_up_to_sixteen_is_loaded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = build_model(
        replace(RFDN, options={**RFDN.options, "features": 6, "distilled": 3, "blocks": 4})
    )
    larger = aligned(small, 16)
    again = load_model(save_weights(tmp_path / "larger.safetensors", larger), ModelConfig())
    assert inputs(again)["c.0"] == 64
    assert computes_the_same(small, again)
