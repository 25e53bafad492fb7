from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sls_deploy.models.model import build_model
from sls_deploy.models.registry import Description
from sls_deploy.search.budget import ROUNDING, land, least_cost
from sls_deploy.search.cost import MacsCost, unit_costs
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.sparsity.masks import MAX_SCORE
from sls_deploy.sparsity.pattern import Pattern


def layers(macs: list[float], channels: int = 64) -> list[Layer]:
    return [Layer(str(i), "Conv2d", (8, channels, 3, 3), 1, m, "") for i, m in enumerate(macs)]


@st.composite
def searches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, float, int]:
    """Products, costs, a budget that can be reached, and the pattern's stride."""
    pattern = Pattern.parse(draw(st.sampled_from(["2:4", "n:4", "n:16", "n:32"])))
    macs = draw(st.lists(st.floats(1, 100), min_size=1, max_size=12))
    costs = unit_costs(MacsCost(), layers(macs), pattern)
    row = st.lists(st.floats(0, MAX_SCORE), min_size=pattern.units - 1, max_size=pattern.units - 1)
    scores = torch.tensor([draw(row) for _ in macs])
    least = least_cost(costs)
    budget = least + draw(st.floats(0, 1)) * (1 - least)
    return scores.cumprod(1), costs, budget, pattern.stride


def reached(counts: torch.Tensor, costs: torch.Tensor) -> float:
    kept = torch.arange(costs.shape[1]) < counts[:, None]
    return float((costs * kept).sum())


@given(searches())
def test_cost_is_never_above_the_budget_and_no_unit_more_would_fit(
    search: tuple[torch.Tensor, torch.Tensor, float, int],
) -> None:
    products, costs, budget, stride = search
    counts = land(products, costs, budget, stride)
    assert ((counts - 1) % stride == 0).all()
    cost = reached(counts, costs)
    assert cost <= budget + 2 * ROUNDING
    for layer, count in enumerate(counts.tolist()):
        if count < costs.shape[1]:
            assert cost + costs[layer, count : count + stride].sum() > budget


MODELS = {
    name: build_model(Description(name, {"scale": 4}, 4, 1.0))
    for name in ("edsr", "carn", "rfdn", "rlfn")
}


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(["2:4", "n:4", "n:16"]),
    st.floats(0.5, 0.95),
    st.integers(0, 99),
)
def test_networks_of_the_registry_land_within_a_hundredth(
    name: str, text: str, budget: float, seed: int
) -> None:
    pattern = Pattern.parse(text)
    found = [layer for layer in find_layers(MODELS[name], pattern, (16, 16)) if layer.prunable]
    costs = unit_costs(MacsCost(), found, pattern)
    generator = torch.Generator().manual_seed(seed)
    scores = 0.9 + 0.13 * torch.rand(len(found), pattern.units - 1, generator=generator)
    cost = reached(land(scores.cumprod(1), costs, budget, pattern.stride), costs)
    assert budget - 0.01 <= cost <= budget + 2 * ROUNDING


def test_units_come_back_by_their_products() -> None:
    pattern = Pattern.parse("2:4")
    costs = unit_costs(MacsCost(), layers([1.0, 1.0, 1.0]), pattern)
    products = torch.tensor([[0.49], [0.20], [0.48]]).repeat(1, 8)
    assert land(products, costs, 0.7, pattern.stride).tolist() == [9, 1, 1]
    assert land(products, costs, 0.9, pattern.stride).tolist() == [9, 1, 9]


def test_all_layers_2_4_is_exactly_a_half() -> None:
    costs = unit_costs(MacsCost(), layers([3.0, 1.0, 7.0], channels=50), Pattern.parse("2:4"))
    counts = land(torch.full((3, 8), 0.9), costs, 0.5, stride=8)
    assert counts.tolist() == [1, 1, 1]
    assert abs(reached(counts, costs) - 0.5) < ROUNDING
