from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model
from sls_deploy.search.layer_shapes import (
    padded_picture,
    shapes_of_uses,
    sizes_of_uses,
    time_of_uses,
)
from sls_deploy.search.layers import Layer, list_layers
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.pattern import Pattern

NETWORKS = {
    "carn": {"features": 8, "scale": 2, "shared": True, "efficient": True, "groups": 2},
    "rfdn": {"features": 8, "distilled": 4, "attention": 4, "blocks": 1, "scale": 2},
    "unet": {"features": 8, "halvings": 2, "middle": 1},
}


class Odd(nn.Module):
    """A dilated layer, one that is used at two sizes, one after a pooling, linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.dilated = nn.Conv2d(8, 8, 3, padding=4, dilation=4)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.attention = nn.Conv2d(8, 8, 1)
        self.mix = nn.Linear(8, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, dilation=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.dilated(self.first(x)))
        small = self.shared(nn.functional.max_pool2d(x, 2))
        x = x + self.up(small)[..., : x.shape[2], : x.shape[3]]
        x = x * self.attention(nn.functional.adaptive_avg_pool2d(x, 1)).sigmoid()
        x = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(x)  # type: ignore[no-any-return]


def model_of(name: str) -> RestorationModel:
    torch.manual_seed(0)
    if name == "odd":
        return RestorationModel(Odd(), Description("mine", {}, 1, 1.0)).eval()
    options = NETWORKS[name]
    scale = int(options.get("scale", 1))
    return build_model(Description(name, options, scale, 1.0, multiple=4 // scale)).eval()


def uses_that_run(model: RestorationModel, picture: tuple[int, int]) -> dict[str, list[int]]:
    """Places at which modules are applied while the network restores a picture."""
    uses: dict[str, list[int]] = {}
    for name, module in model.network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):

            def count(
                module: nn.Module, given: tuple[Tensor], output: Tensor, name: str = name
            ) -> None:
                value = given[0] if isinstance(module, nn.ConvTranspose2d) else output
                channels = value.shape[-1 if isinstance(module, nn.Linear) else 1]
                uses.setdefault(name, []).append(value.numel() // channels)

            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, *picture))
    return uses


@pytest.mark.parametrize("name", [*NETWORKS, "odd"])
@pytest.mark.parametrize("picture", [(92, 164), (60, 60)])
def test_sizes_are_those_that_the_layers_of_a_network_have(
    name: str, picture: tuple[int, int]
) -> None:
    sizes = sizes_of_uses(model_of(name), picture)
    found = {layer: [math.prod(size) for size in uses] for layer, uses in sizes.items()}
    assert found == uses_that_run(model_of(name), picture)


def shapes_at(model: RestorationModel, picture: tuple[int, int]) -> Mapping[str, list[str]]:
    layers = list_layers(model, Pattern.parse("2:4"), trace(model, 32))
    sizes = sizes_of_uses(model, picture)
    return {
        layer.name: [str(shape) for shape in shapes_of_uses(layer, 8, 8, picture, sizes)]
        for layer in layers
    }


def test_a_large_picture_is_looked_at_without_computing() -> None:
    shapes = shapes_at(model_of("odd"), (4320, 7680))
    assert shapes == {
        "first": ["Conv2d 3x3 8->8 at 4320x7680"],
        "dilated": ["Conv2d 3x3 dilated 4 8->8 at 4320x7680"],
        "shared": ["Conv2d 3x3 8->8 at 4320x7680", "Conv2d 3x3 8->8 at 2160x3840"],
        "up": ["ConvTranspose2d 2x2 /2 8->8 at 2160x3840"],
        "attention": ["Conv2d 1x1 8->8 at 1x1"],
        "mix": ["Linear 8->8 at 4320x7680"],
        "last": ["Conv2d 3x3 8->8 at 4320x7680"],
    }


def test_the_shapes_of_equal_uses_are_counted() -> None:
    model = model_of("carn")
    layers = list_layers(model, Pattern.parse("2:4"), trace(model, 32))
    sizes = sizes_of_uses(model, (60, 60))
    shared = next(layer for layer in layers if layer.uses == 3)
    assert list(shapes_of_uses(shared, 4, 4, (60, 60), sizes).values()) == [3]


class Undecided(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0.5 else 1 - x)


def test_a_network_that_cannot_be_traced_has_no_sizes() -> None:
    model = RestorationModel(Undecided(), Description("mine", {}, 1, 1.0)).eval()
    assert sizes_of_uses(model, (32, 48)) == {}


def test_a_network_can_run_on_crops_of_the_size_that_was_looked_at() -> None:
    kept: dict[tuple[int, ...], Tensor] = {}

    class Remembering(Odd):
        def forward(self, x: Tensor) -> Tensor:
            kept.setdefault(tuple(x.shape), torch.linspace(0, 1, x.shape[3]))
            return super().forward(x + kept[tuple(x.shape)])

    model = RestorationModel(Remembering(), Description("mine", {}, 1, 1.0)).eval()
    assert sizes_of_uses(model, (48, 48))
    assert type(model(torch.zeros(1, 3, 48, 48))) is Tensor


@pytest.mark.parametrize(
    ("share", "uses", "size"),
    [(1, 1, (180, 320)), (0.25, 1, (90, 160)), (16, 1, (720, 1280)), (4, 4, (180, 320))],
)
def test_unknown_sizes_are_the_share_of_the_picture(
    share: float, uses: int, size: tuple[int, int]
) -> None:
    weight = (256, 64, 3, 3)
    layer = Layer("body", "Conv2d", weight, 1, math.prod(weight) * share, "", uses)
    ((shape, times),) = shapes_of_uses(layer, 64, 256, (180, 320), {}).items()
    assert (shape.height, shape.width, times) == (*size, uses)
    assert (shape.stride, shape.dilation) == ((1, 1), (1, 1))


def test_a_layer_that_is_not_used_has_no_shapes() -> None:
    layer = Layer("body", "Conv2d", (8, 8, 3, 3), 1, 0.0, "", 0)
    assert not shapes_of_uses(layer, 8, 8, (180, 320), {})


def test_sides_are_rounded_up_to_what_the_network_takes() -> None:
    model = model_of("odd")
    model.description = replace(model.description, least_side=16, multiple=8)
    assert padded_picture(model, (7, 33)) == (16, 40)


@pytest.mark.parametrize(
    ("pruned", "noise", "sparse", "time"),
    [(90, 0.02, True, 180), (90, 0.15, True, 200), (99.5, 0, True, 200), (90, 0, False, 200)],
)
def test_2_4_counts_where_it_saves_more_than_the_noise(
    pruned: float, noise: float, sparse: bool, time: float
) -> None:
    layer = Layer("body", "Conv2d", (8, 8, 3, 3), 1, 72.0, "", 1)
    (shape,) = shapes_of_uses(layer, 8, 8, (4, 4), {})
    assert time_of_uses(Counter({shape: 2}), lambda _: (100, pruned, noise), sparse) == time
