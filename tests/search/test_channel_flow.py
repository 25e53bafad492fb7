"""Which channels may change places: shown by letting them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sls_deploy.models.architecture import Description
from sls_deploy.models.restoration import RestorationModel
from sls_deploy.search.channel_flow import find_streams
from sls_deploy.search.channels import Stream
from sls_deploy.search.reorder import computes_the_same, reorder
from sls_deploy.search.trace import Trace, trace
from tests.export.conftest import SMALL
from tests.search.test_interiors import Small, model_of
from tests.zoo import ZOO, zoo_model

STAYS = {
    "efficient_attention",  # heads are cut out of the channels by a reshape
    "window_attention",
    "shifted_windows",
    "counted_windows",
    "token_attention",
}


def streams_of(model: RestorationModel) -> list[Stream]:
    return find_streams(trace(model, 48))


def shuffled(
    graph: Trace, model: RestorationModel, streams: list[Stream], seed: int = 0
) -> RestorationModel:
    """The model with every stream in a random order that is not the old one."""
    generator = np.random.default_rng(seed)
    orders = [
        (stream, np.roll(order, 1) if (order == np.arange(len(order))).all() else order)
        for stream in streams
        for order in [generator.permutation(stream.size)]
    ]
    return reorder(graph, model, orders)


def ends(stream: Stream, end: str) -> list[str]:
    return [f"{place.axis.name}/{place.axis.group}" for place in stream.ends(end)]


def small(middle: Callable[[Any, Tensor], Tensor], **more: nn.Module) -> list[Stream]:
    """Streams of first -> middle -> last."""
    return streams_of(model_of(Small(middle, **more)))


@pytest.mark.parametrize("name", ZOO)
def test_zoo_network_in_another_order_computes_the_same(name: str) -> None:
    model = zoo_model(name)
    graph = trace(model, 48)
    moved = shuffled(graph, model, find_streams(graph))
    assert computes_the_same(model, moved)
    pairs = zip(
        model.network.state_dict().values(), moved.network.state_dict().values(), strict=True
    )
    assert any(not torch.equal(*pair) for pair in pairs) == (name not in STAYS)


@pytest.mark.parametrize("name", SMALL)
def test_registry_network_in_another_order_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    from sls_deploy.models.model import build_model

    model = build_model(SMALL[name])
    graph = trace(model, 48)
    streams = find_streams(graph)
    assert len(streams) > 1
    assert computes_the_same(model, shuffled(graph, model, streams))


def test_other_order_of_one_end_alone_is_noticed() -> None:
    model = model_of(Small(lambda net, x: net.b(net.a(x))))
    graph = trace(model, 48)
    stream = next(item for item in find_streams(graph) if "a.weight/0" in ends(item, "out"))
    alone = Stream(tuple(place for place in stream.places if place.axis.end == "in"))
    torch.nn.init.normal_(model.network.get_parameter("b.weight"))
    torch.nn.init.normal_(model.network.get_parameter("a.weight"))
    assert not computes_the_same(model, shuffled(graph, model, [alone]))


def test_residual_stream_has_one_order() -> None:
    (inner, stream) = sorted(
        small(lambda net, x: x + net.b(functional.relu(net.a(x)))),
        key=lambda item: len(item.places),
    )
    assert ends(stream, "out") == ["first.weight/0", "b.weight/0"]
    assert ends(stream, "in") == ["a.weight/0", "last.weight/0"]
    assert ends(inner, "in") == ["b.weight/0"]


def test_segments_of_a_concatenation_have_orders_of_their_own() -> None:
    found = small(
        lambda net, x: net.join(torch.cat([net.a(x), net.b(x)], 1)), join=nn.Conv2d(16, 8, 1)
    )
    at = {
        ends(stream, "out")[0]: place.at[:, 0].tolist()
        for stream in found
        for place in stream.ends("in")
        if place.axis.name == "join.weight"
    }
    assert at == {"a.weight/0": list(range(8)), "b.weight/0": list(range(8, 16))}


def test_channels_of_a_group_convolution_stay_in_their_group() -> None:
    found = small(lambda net, x: net.groups(net.a(x)), groups=nn.Conv2d(8, 8, 1, groups=2))
    assert [ends(s, "in") for s in found if s.size == 4] == [
        ["groups.weight/0"],
        ["groups.weight/1"],
        ["last.weight/0"],
        ["last.weight/0"],
    ]


def test_depthwise_convolution_follows_its_channels() -> None:
    found = small(lambda net, x: net.depth(net.a(x)), depth=nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    stream = next(item for item in found if "a.weight/0" in ends(item, "out"))
    assert ends(stream, "own") == ["a.bias/0", "depth.weight/0", "depth.bias/0"]


def test_blocks_stay_together_in_front_of_a_pixel_shuffle() -> None:
    found = small(
        lambda net, x: functional.interpolate(net.join(net.shuffle(net.a(x))), scale_factor=0.5),
        shuffle=nn.PixelShuffle(2),
        join=nn.Conv2d(2, 8, 1),
    )
    stream = next(item for item in found if "a.weight/0" in ends(item, "out"))
    assert stream.ends("out")[0].at.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_input_and_output_of_the_network_stay() -> None:
    streams = small(lambda net, x: x)
    touched = {name for stream in streams for name in ends(stream, "in")}
    written = {name for stream in streams for name in ends(stream, "out")}
    assert touched == {"last.weight/0"}
    assert written == {"first.weight/0"}


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: net.a(x).flip(1),
        lambda net, x: (
            net.a(x).view(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        ),
        lambda net, x: net.a(x).cumsum(1),
        lambda net, x: net.a(x) + torch.arange(8.0, dtype=x.dtype).view(8, 1, 1),
    ],
    ids=["flip", "channel shuffle", "sum along", "constant"],
)
def test_what_unknown_operations_touch_stays(middle: Callable[[Any, Tensor], Tensor]) -> None:
    written = [name for stream in small(middle) for name in ends(stream, "out")]
    assert "a.weight/0" not in written


class Drawn(nn.Module):
    """A network of drawn steps on a stream of features."""

    def __init__(self, steps: list[tuple[str, int]], width: int) -> None:
        super().__init__()
        self.steps = steps
        self.entry, self.exit = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 1)
        self.layers = nn.ModuleList(self._layers(kind, width, inner) for kind, inner in steps)

    @staticmethod
    def _layers(kind: str, width: int, inner: int) -> nn.ModuleList:
        layers: dict[str, list[nn.Module]] = {
            "block": [nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 1)],
            "join": [nn.Conv2d(width, inner, 1), nn.Conv2d(width + inner, width, 1)],
            "grouped": [nn.Conv2d(width, width, 1, groups=2), nn.PReLU(width)],
            "depthwise": [
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.BatchNorm2d(width),
            ],
            "attention": [nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)],
            "shuffle": [nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)],
            "halves": [nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)],
            "norm": [nn.GroupNorm(1, width), nn.GroupNorm(2, width)],
        }
        return nn.ModuleList(layers[kind])

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW of the same shape."""
        features = self.entry(x)
        for (kind, _), (first, second) in zip(self.steps, self.layers, strict=True):
            features = self._step(kind, features, first, second)
        return self.exit(features)  # type: ignore[no-any-return]

    @staticmethod
    def _step(kind: str, x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        if kind == "join":
            result = second(torch.cat([x, torch.sigmoid(first(x))], 1))
        elif kind == "attention":
            result = x * torch.sigmoid(second(torch.relu(first(x.mean((2, 3), keepdim=True)))))
        elif kind == "shuffle":
            wide = functional.pixel_shuffle(first(x), 2)
            result = second(functional.pixel_unshuffle(wide, 2))
        elif kind == "halves":
            left, right = first(x).chunk(2, 1)
            result = second(left * right)
        elif kind == "block":
            result = x + second(functional.leaky_relu(first(x), 0.1))
        else:
            result = second(first(x))
        return result  # type: ignore[no-any-return]


KINDS = ("block", "join", "grouped", "depthwise", "attention", "shuffle", "halves", "norm")


@settings(max_examples=15)
@given(
    steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 6)), min_size=1, max_size=5),
    width=st.sampled_from([4, 6, 8]),
    seed=st.integers(0, 99),
)
def test_drawn_network_in_another_order_computes_the_same(
    steps: list[tuple[str, int]], width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = RestorationModel(Drawn(steps, width), Description("drawn", {}, 1, 1.0)).eval()
    graph = trace(model, 48)
    streams = find_streams(graph)
    assert streams
    assert computes_the_same(model, shuffled(graph, model, streams, seed))


class TwoNames(nn.Module):
    """One batch normalisation under two names, and a factor that is a layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.first = nn.BatchNorm2d(8)
        self.second = self.first
        self.mix, self.exit = nn.Conv2d(8, 1, 1, bias=False), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        x = self.second(self.middle(torch.relu(self.first(self.entry(x)))))
        return self.exit(x * torch.sigmoid(self.mix(x)) + x * self.mix.weight)  # type: ignore[no-any-return]


def test_parameters_of_two_names_and_of_two_uses_are_taken_care_of() -> None:
    model = model_of(TwoNames())
    graph = trace(model, 48)
    assert computes_the_same(model, shuffled(graph, model, find_streams(graph)))


class Single(nn.Module):
    """Makes float32 values of its own, whatever the network is in."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        return self.exit(torch.relu(self.entry(x.float())))  # type: ignore[no-any-return]


def test_network_that_insists_on_float32_is_compared_in_that() -> None:
    model = model_of(Single())
    graph = trace(model, 48)
    (stream,) = find_streams(graph)
    assert computes_the_same(model, shuffled(graph, model, [stream]))
    alone = Stream(tuple(place for place in stream.places if place.axis.end == "in"))
    torch.nn.init.normal_(model.network.get_parameter("entry.weight"))
    assert not computes_the_same(model, shuffled(graph, model, [alone]))


def test_groups_of_a_normalisation_along_another_axis_fix_their_channels() -> None:
    def turned(net: Any, x: Tensor) -> Tensor:
        rows = net.a(x).permute(0, 2, 3, 1)
        return net.norm(rows).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    streams = small(turned, norm=nn.GroupNorm(4, 48))
    assert "a.weight/0" not in [name for stream in streams for name in ends(stream, "out")]
