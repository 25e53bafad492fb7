from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model
from sls_deploy.search.layers import find_layers
from sls_deploy.search.trace import Trace, Walk, trace
from sls_deploy.sparsity.pattern import Pattern
from tests.zoo import zoo_model

OPTIONS: dict[str, dict[str, Any]] = {
    "edsr": {"features": 8, "blocks": 1, "scale": 2},
    "carn": {"features": 8, "scale": 2, "shared": True, "efficient": True, "groups": 2},
    "rfdn": {"features": 8, "distilled": 4, "attention": 4, "blocks": 1, "scale": 2},
    "rlfn": {"features": 8, "inner": 6, "attention": 4, "blocks": 1, "scale": 2},
}
RANGES = {"edsr": 255.0, "carn": 1.0, "rfdn": 255.0, "rlfn": 1.0}
PICTURES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Three convolutions, of which one is used twice, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.shared = nn.Conv2d(4, 4, 3, padding="same")
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.shared(self.shared(x).relu_()) + x + self.offset
        return self.last(x * torch.tensor(2.0))  # type: ignore[no-any-return]


def model_of(network: nn.Module) -> RestorationModel:
    return RestorationModel(network, Description("mine", {}, 1, 1.0)).eval()


@pytest.fixture(scope="module", params=sorted(OPTIONS))
def known(request: pytest.FixtureRequest) -> tuple[RestorationModel, Trace]:
    """Each network of the registry, small."""
    return small(request.param)


@cache
def small(name: str) -> tuple[RestorationModel, Trace]:
    """A small network of the registry with its trace."""
    torch.manual_seed(0)
    model = build_model(Description(name, OPTIONS[name], 2, RANGES[name])).eval()
    return model, trace(model, 32)


@pytest.fixture(scope="module")
def chain() -> tuple[RestorationModel, Trace]:
    torch.manual_seed(0)
    model = model_of(Chain())
    return model, trace(model, 32)


def walked(model: RestorationModel, graph: Trace, pictures: Tensor) -> Tensor:
    """What a walk ends with."""
    graph = graph.of(len(pictures))
    walk = Walk(graph, graph.state(model), pictures)
    with torch.no_grad():
        for node in graph.nodes:
            walk.step(node)
            walk.forget(node)
    result: Tensor = walk.values[graph.output.name]
    return result


def test_walk_gives_the_output_to_the_bit(known: tuple[RestorationModel, Trace]) -> None:
    model, graph = known
    with torch.no_grad():
        assert torch.equal(walked(model, graph, PICTURES), model(PICTURES))


def test_walk_takes_one_picture(known: tuple[RestorationModel, Trace]) -> None:
    model, graph = known
    picture = PICTURES[:1]
    with torch.no_grad():
        assert torch.equal(walked(model, graph, picture), model(picture))


def test_every_prunable_layer_has_its_uses(known: tuple[RestorationModel, Trace]) -> None:
    model, graph = known
    layers = find_layers(model, Pattern.parse("n:4"), (32, 32))
    assert {layer.name for layer in layers if layer.prunable} <= graph.uses.keys()


def test_trace_has_no_weights_of_its_own(known: tuple[RestorationModel, Trace]) -> None:
    model, graph = known
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
        assert torch.equal(walked(other, graph, PICTURES), other(PICTURES))


def test_shared_layer_is_used_as_often_as_it_runs(
    chain: tuple[RestorationModel, Trace],
) -> None:
    uses = chain[1].uses
    assert {name: len(nodes) for name, nodes in uses.items()} == {
        "first": 1,
        "shared": 2,
        "last": 1,
    }
    order = chain[1].nodes
    assert order.index(uses["shared"][0]) < order.index(uses["shared"][1])


def test_blocks_of_carn_m_run_three_times() -> None:
    uses = small("carn")[1].uses
    assert len(uses["b1.b1.body.0"]) == len(uses["b3.b1.body.4"]) == 3
    assert len(uses["b1.c1.body.0"]) == 1


def test_buffers_and_constants_are_walked(chain: tuple[RestorationModel, Trace]) -> None:
    model, graph = chain
    with torch.no_grad():
        assert torch.equal(walked(model, graph, PICTURES), model(PICTURES))
    assert "offset" in {graph.parameter(item) for n in graph.nodes for item in n.all_input_nodes}


def test_pictures_stay_as_they_were(chain: tuple[RestorationModel, Trace]) -> None:
    pictures = PICTURES.clone()
    walked(*chain, pictures)
    assert torch.equal(pictures, PICTURES)


def test_values_are_dropped_after_their_last_use(
    chain: tuple[RestorationModel, Trace],
) -> None:
    model, graph = chain
    state = graph.state(model)
    walk = Walk(graph, state, PICTURES)
    with torch.no_grad():
        for place, node in enumerate(graph.nodes):
            walk.step(node)
            walk.forget(node)
            later = {item.name for n in graph.nodes[place + 1 :] for item in n.all_input_nodes}
            made = {item.name for item in graph.nodes[: place + 1]} | {graph.input.name}
            kept = walk.values.keys() - state.keys() - {graph.output.name}
            assert kept == later & (made - {graph.output.name})


def test_bytes_held_leave_weights_out(chain: tuple[RestorationModel, Trace]) -> None:
    model, graph = chain
    walk = Walk(graph, graph.state(model), PICTURES)
    assert walk.bytes_held == PICTURES.nbytes
    with torch.no_grad():
        walk.step(graph.nodes[0])
    assert walk.bytes_held == PICTURES.nbytes * 7 // 3


def test_replaced_weight_is_used_from_then_on(chain: tuple[RestorationModel, Trace]) -> None:
    model, graph = chain
    walk = Walk(graph, graph.state(model), PICTURES)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.network.get_parameter("shared.weight").mul_(2)
        for node in graph.nodes:
            if node is graph.uses["shared"][0]:
                walk.replace(node.args[1], other.network.get_parameter("shared.weight"))
            walk.step(node)
        assert torch.equal(walk.values[graph.output.name], other(PICTURES))
    assert not torch.equal(other(PICTURES), model(PICTURES))


def test_network_that_looks_at_its_pictures_is_refused() -> None:
    class Undecided(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.mean() > 0.5 else 1 - x)

    with pytest.raises(SlsError, match=r"mine: cannot be traced .* Use --method sls"):
        trace(model_of(Undecided()), 32)


KEPT: dict[tuple[int, ...], Tensor] = {}


class Remembering(Chain):
    """Keeps a grid for each size of picture, as networks that warp frames do."""

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if size not in KEPT:
            KEPT[size] = torch.linspace(0, 1, size[1]).expand(1, 1, *size)
        return super().forward(x + KEPT[size])


def test_what_a_network_keeps_for_a_size_stays_real() -> None:
    KEPT.clear()
    model = model_of(Remembering())
    graph = trace(model, 32)
    assert type(model(PICTURES)) is Tensor
    torch.testing.assert_close(walked(model, graph, PICTURES), model(PICTURES))


def test_network_that_kept_values_of_a_trace_is_refused() -> None:
    KEPT.clear()
    model = model_of(Remembering())
    with torch.no_grad():
        torch.export.export(model, (torch.zeros(1, 3, 32, 32),), strict=False)
    with pytest.raises(SlsError, match="kept those of a trace"):
        trace(model, 32)


def test_operations_in_place_count_where_the_picture_sees_them() -> None:
    graph = trace(zoo_model("in_place"), 16)
    assert set(graph.uses) == {"entry", "body", "exit"}
    written = [str(node.target) for node in graph.nodes if "_." in str(node.target)]
    assert written == ["aten.leaky_relu_.default", "aten.clamp_.default"]


def test_weight_of_two_names_goes_by_the_first() -> None:
    graph = trace(zoo_model("two_names"), 16)
    assert len(graph.uses["first"]) == 2
    assert "again" not in graph.uses
