"""Channels that may be dropped, in real networks and in small ones with one difficulty each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model
from sls_deploy.models.narrow import select
from sls_deploy.search.interiors import Interior, find_interiors, kept_channels
from sls_deploy.search.layers import find_layers
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.pattern import Pattern

NETWORKS = {
    "edsr": Description("edsr", {"features": 8, "blocks": 2, "scale": 2}, 2, 255.0),
    "carn": Description("carn", {"features": 8, "scale": 2}, 2, 1.0),
    "carn_shared": Description("carn", {"features": 8, "scale": 2, "shared": True}, 2, 1.0),
    "carn_m": Description(
        "carn", {"features": 8, "scale": 2, "shared": True, "efficient": True, "groups": 2}, 2, 1.0
    ),
    "rfdn": Description(
        "rfdn", {"features": 8, "distilled": 4, "attention": 4, "blocks": 2, "scale": 2}, 2, 255.0
    ),
    "rlfn": Description(
        "rlfn", {"features": 8, "inner": 6, "attention": 4, "blocks": 2, "scale": 2}, 2, 255.0
    ),
}
CARN_ENDS = [("c3.body.0", "upsample.up.body.0")]


def attention(block: str, *coarse: str) -> list[tuple[str, str]]:
    """Interiors of a block's spatial attention, by its convolutions on the coarse grid."""
    chain = [
        ("conv1", "conv2 conv_f"),
        *pairwise(("conv2", *coarse)),
        (f"{coarse[-1]} conv_f", "conv4"),
    ]
    prefix = f"{block}.esa."
    return [
        (prefix + written.replace(" ", f" {prefix}"), prefix + read.replace(" ", f" {prefix}"))
        for written, read in chain
    ]


EXPECTED = {
    # The residual stream joins the first convolution, which stays dense.
    "edsr": [(f"body.{b}.body.0", f"body.{b}.body.2") for b in (0, 1)],
    # All but the inside of residual blocks is concatenated.
    "carn": CARN_ENDS
    + [(f"b{b}.b{r}.body.0", f"b{b}.b{r}.body.2") for b in (1, 2, 3) for r in (1, 2, 3)],
    "carn_shared": CARN_ENDS + [(f"b{b}.b1.body.0", f"b{b}.b1.body.2") for b in (1, 2, 3)],
    # Group convolutions; that of the upsampler reads what the last fusion writes.
    "carn_m": [],
    # What a block distils and puts out is concatenated; the fusion of all blocks is not.
    "rfdn": [
        ("c.0", "LR_conv"),
        *attention("B1", "conv_max", "conv3", "conv3_"),
        *attention("B2", "conv_max", "conv3", "conv3_"),
    ],
    # Between blocks features are multiplied by the attention and added by the next block's
    # residual. The stream of the first block is the first convolution's, which stays dense.
    "rlfn": [
        (
            "block_1.c5 block_1.esa.conv4 block_2.c3_r",
            "block_1.esa.conv1 block_2.c1_r block_2.c5",
        ),
        ("block_2.c5 block_2.esa.conv4", "block_2.esa.conv1 conv_2"),
        *((f"block_{b}.c{c}_r", f"block_{b}.c{c + 1}_r") for b in (1, 2) for c in (1, 2)),
        *attention("block_1", "conv3"),
        *attention("block_2", "conv3"),
    ],
}


class Small(nn.Module):
    """Five convolutions; the test says what happens between the first and the last."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], **more: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in "abc")
        for name, module in more.items():
            self.add_module(name, module)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        return self.last(self.middle(self, self.first(x)))  # type: ignore[no-any-return]


def model_of(network: nn.Module) -> RestorationModel:
    """A model in float64, with values everywhere."""
    torch.manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 0.3)
    return RestorationModel(network, Description("mine", {}, 1, 1.0))


def found(model: RestorationModel, *also: str) -> list[Interior]:
    """Interiors, with every convolution but the first and last prunable, or only those named."""
    if not also:
        layers = find_layers(model, Pattern.parse("2:4"), (16, 16))
        also = tuple(layer.name for layer in layers if layer.prunable)
    return find_interiors(trace(model, 32), also)


def pairs(interiors: list[Interior]) -> list[tuple[str, str]]:
    """Producers and consumers, in words."""
    return [(" ".join(item.producers), " ".join(item.consumers)) for item in interiors]


def assert_droppable(model: RestorationModel, interiors: list[Interior]) -> None:
    """Without its dropped channels the network gives what it gives when nobody reads them."""
    model = model.double().eval()
    keep = [torch.arange(0, item.channels, 2) for item in interiors]
    smaller = select(model, kept_channels(zip(interiors, keep, strict=True)))
    for interior in interiors:
        for name in interior.consumers:
            model.network.get_parameter(f"{name}.weight").data[:, 1::2] = 0
    x = torch.rand(2, 3, 20, 17, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        torch.testing.assert_close(smaller(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_interiors_of_registry_networks(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NETWORKS[name])
    interiors = found(model)
    assert sorted(pairs(interiors)) == sorted(EXPECTED[name])
    assert_droppable(model, interiors)


def test_residual_ties_its_two_producers() -> None:
    def middle(net: Any, x: Tensor) -> Tensor:
        x = net.a(x).relu()
        return net.c(x + net.b(x))  # type: ignore[no-any-return]

    model = model_of(Small(middle))
    interiors = found(model)
    assert interiors == [Interior(("a", "b"), ("b", "c"), 8, ())]
    assert_droppable(model, interiors)


def test_values_for_each_channel_are_found_between() -> None:
    layers = {"norm": nn.BatchNorm2d(8), "slope": nn.PReLU(8), "one_slope": nn.PReLU()}
    model = model_of(
        Small(lambda net, x: net.b(net.one_slope(net.slope(net.norm(net.a(x))))), **layers)
    )
    interiors = found(model)
    assert interiors == [Interior(("a",), ("b",), 8, ("norm", "slope"))]
    assert_droppable(model, interiors)


def test_shared_normalisation_ties_the_channels_of_its_uses() -> None:
    norm = nn.BatchNorm2d(8, affine=False)
    model = model_of(Small(lambda net, x: net.c(net.norm(net.b(net.norm(net.a(x))))), norm=norm))
    interiors = found(model)
    assert interiors == [Interior(("a", "b"), ("b", "c"), 8, ("norm",))]
    assert_droppable(model, interiors)


def test_channelwise_operations_keep_channels_apart() -> None:
    def middle(net: Any, x: Tensor) -> Tensor:
        x = net.dropout(net.in_place(net.a(x)))
        x = functional.silu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True))
        x = functional.avg_pool2d(functional.pad(x, (1, 2, 3, 4)), 2)
        x = functional.pad(functional.interpolate(x, scale_factor=2), (1, 1, 1, 1), "reflect")
        x += 0.5
        x = 1 - functional.hardswish(x).clamp(0, 3) / 2
        return net.b(x * torch.sigmoid(net.map(x)))  # type: ignore[no-any-return]

    layers = {
        "in_place": nn.ReLU(inplace=True),
        "dropout": nn.Dropout2d(),
        "map": nn.Conv2d(8, 1, 1),
    }
    model = model_of(Small(middle, **layers))
    interiors = found(model)
    assert pairs(interiors) == [("a", "map b")]
    assert_droppable(model, interiors)


def test_shared_convolution_is_narrowed_where_all_uses_agree() -> None:
    model = model_of(Small(lambda net, x: net.c(net.b(net.b(net.a(x))))))
    interiors = found(model)
    assert pairs(interiors) == [("a b", "b c")]
    assert_droppable(model, interiors)


def test_shared_convolution_is_left_where_one_use_must_stay_wide() -> None:
    # b reads what the first convolution writes, so what a writes stays wide as well.
    model = model_of(Small(lambda net, x: net.c(net.b(net.a(net.b(x))))))
    assert pairs(found(model)) == [("b", "a c")]


def scaled(*shape: int) -> Small:
    """Multiplies by a parameter."""
    network = Small(lambda net, x: net.b(net.a(x) * net.scale))
    network.scale = nn.Parameter(torch.ones(shape))
    return network


def between(layer: nn.Module) -> Small:
    """Has a layer between two convolutions."""
    return Small(lambda net, x: net.b(net.layer(net.a(x))), layer=layer)


def halves_joined(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.b(torch.cat([x[:, :4], x[:, 4:]], dim=1))  # type: ignore[no-any-return]


def mean_over_channels(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.b(x - x.mean(1, keepdim=True))  # type: ignore[no-any-return]


def changed_weights(net: Any, x: Tensor) -> Tensor:
    x = functional.conv2d(x, net.a.weight * 2, net.a.bias, padding=1)
    x = functional.conv2d(x, net.b.weight[:, :2], padding=1, groups=4)
    return net.c(net.b(net.a(x)))  # type: ignore[no-any-return]


def bias_of_another_layer(net: Any, x: Tensor) -> Tensor:
    x = functional.conv2d(net.a(x), net.b.weight, net.a.bias, padding=1)
    return net.c(x)  # type: ignore[no-any-return]


ENDED = {
    "concatenation": Small(halves_joined),
    "reshape": Small(lambda net, x: net.b(net.a(x).view(x.shape))),
    "mean over channels": Small(mean_over_channels),
    "softmax": Small(lambda net, x: net.b(net.a(x).softmax(1))),
    "padding of channels": Small(lambda n, x: n.b(functional.pad(n.a(x), (0, 0, 0, 0, 1, -1)))),
    "constant": Small(lambda net, x: net.b(net.a(x) * torch.arange(8.0).view(8, 1, 1))),
    "scale of three dimensions": scaled(8, 1, 1),
    "scale of four dimensions": scaled(1, 8, 1, 1),
    "changed weights": Small(changed_weights),
    "depthwise": between(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "groups": between(nn.Conv2d(8, 8, 1, groups=2)),
    "transposed": between(nn.ConvTranspose2d(8, 8, 1)),
    "group normalisation": between(nn.GroupNorm(2, 8)),
    "pixel shuffle": between(nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2))),
}


@pytest.mark.parametrize("case", ENDED)
def test_whatever_else_touches_channels_ends_them(case: str) -> None:
    assert found(model_of(ENDED[case]), "a", "b", "c", "layer") == []


def test_layers_that_share_a_bias_keep_the_same_channels() -> None:
    assert pairs(found(model_of(Small(bias_of_another_layer)), "a", "b", "c")) == [("a b", "b c")]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 1, 1)])
def test_one_factor_for_all_channels_ends_nothing(shape: tuple[int, ...]) -> None:
    assert pairs(found(model_of(scaled(*shape)))) == [("a", "b")]


def test_layer_that_is_not_prunable_ends_its_channels() -> None:
    model = model_of(Small(lambda net, x: net.c(net.b(net.a(x)))))
    assert pairs(found(model, "a", "b")) == [("a", "b")]
    assert pairs(found(model, "b", "c")) == [("b", "c")]
    assert found(model, "a", "c") == []


def test_input_and_output_are_no_interiors() -> None:
    model = model_of(Small(lambda net, x: x))
    assert pairs(found(model, "first", "last")) == [("first", "last")]
