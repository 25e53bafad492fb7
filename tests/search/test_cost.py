from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sls_deploy.calibration.roofline import GPUS
from sls_deploy.config import SearchConfig
from sls_deploy.search import cost
from sls_deploy.search.cost import (
    CostModel,
    ExecutableCost,
    Form,
    MacsCost,
    RooflineCost,
    dense_form,
    runs_sparse,
)
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.sparsity.pattern import Pattern
from tests.zoo import zoo_model

HD = (720, 1280)
A100 = RooflineCost(GPUS["a100"], HD)
MODELS: tuple[CostModel, ...] = (
    MacsCost(),
    ExecutableCost(),
    A100,
    RooflineCost(GPUS["l4"], (16, 16)),
)
PATTERNS = st.sampled_from(["2:4", "n:4", "n:8", "n:16", "n:32"]).map(Pattern.parse)


def convolution(
    inputs: int, outputs: int, kernel: int = 3, groups: int = 1, uses: float = 1
) -> Layer:
    shape = (outputs, inputs // groups, kernel, kernel)
    return Layer("body", "Conv2d", shape, groups, math.prod(shape) * uses, "")


@st.composite
def convolutions(draw: st.DrawFn) -> Layer:
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = draw(st.integers(2, 150)) * groups, draw(st.integers(1, 150)) * groups
    kernel, uses = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([0.25, 1, 3, 16]))
    return convolution(inputs, outputs, kernel, groups, uses)


@settings(max_examples=30)
@given(st.lists(convolutions(), min_size=1, max_size=6), PATTERNS)
def test_macs_are_what_budgets_have_counted(layers: list[Layer], pattern: Pattern) -> None:
    shares = cost.unit_costs(MacsCost(), layers, pattern)
    macs = torch.tensor([layer.macs for layer in layers], dtype=torch.float64)
    expected = torch.stack([pattern.unit_shares(layer.shape[1]) for layer in layers])
    expected *= (macs / macs.sum())[:, None]
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-15)


@given(st.lists(convolutions(), min_size=1, max_size=6), PATTERNS, st.sampled_from(MODELS))
def test_costs_of_units_sum_to_one_and_none_is_negative(
    layers: list[Layer], pattern: Pattern, model: CostModel
) -> None:
    shares = cost.unit_costs(model, layers, pattern)
    assert shares.shape == (len(layers), pattern.units)
    assert shares.dtype == torch.float64
    assert abs(float(shares.sum()) - 1) < 1e-12
    assert float(shares.min()) >= 0


@given(convolutions(), st.sampled_from(MODELS), st.sampled_from([4, 8, 16, 32]), st.data())
def test_price_grows_with_the_weights_kept(
    layer: Layer, model: CostModel, of: int, data: st.DataObject
) -> None:
    form = dense_form(layer)
    fewer, more = sorted(data.draw(st.tuples(st.integers(1, of), st.integers(1, of))))
    prices = [model.price(layer, Form(form.inputs, form.outputs, n, of)) for n in (fewer, more)]
    assert 0 < prices[0] <= prices[1]


@given(convolutions(), st.sampled_from(MODELS), st.integers(1, 16), st.data())
def test_price_grows_with_the_channels_kept(
    layer: Layer, model: CostModel, kept: int, data: st.DataObject
) -> None:
    """In steps of four input channels: between them a 2:4 layer falls back to dense."""
    sizes = st.tuples(st.integers(1, 40), st.integers(1, 150))
    (few_in, few_out), (more_in, more_out) = data.draw(sizes), data.draw(sizes)
    small = Form(4 * min(few_in, more_in), min(few_out, more_out), kept, 16)
    large = Form(4 * max(few_in, more_in), max(few_out, more_out), kept, 16)
    assert 0 < model.price(layer, small) <= model.price(layer, large) * (1 + 1e-12)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), PATTERNS)
def test_executable_cost_of_eligible_layers_is_a_half_up_to_half_of_the_weights(
    quads: list[int], pattern: Pattern
) -> None:
    layers = [convolution(4 * n, 64) for n in quads]
    shares = cost.unit_costs(ExecutableCost(), layers, pattern)
    half = pattern.group // 2 - pattern.first + 1
    assert float(shares[:, :half].sum()) == pytest.approx(0.5)
    assert float(shares[:, half].sum()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("layer", "form", "sparse"),
    [
        (convolution(64, 64), Form(64, 64, 2, 4), True),
        (convolution(64, 64), Form(64, 64, 3, 32), True),
        (convolution(64, 64), Form(64, 64, 17, 32), False),
        (convolution(50, 64), Form(50, 64, 2, 4), False),
        (convolution(50, 64), Form(48, 64, 2, 4), True),
        (convolution(64, 64, groups=4), Form(16, 16, 2, 4), False),
    ],
)
def test_what_sparse_tensor_cores_take(layer: Layer, form: Form, sparse: bool) -> None:
    assert runs_sparse(layer, form) == sparse
    dense = ExecutableCost().price(layer, Form(form.inputs, form.outputs, 4, 4))
    assert ExecutableCost().price(layer, form) == dense * (0.5 if sparse else 1)


def test_narrowed_channels_cost_their_share_rounded_up_to_four() -> None:
    layer = convolution(64, 64)
    assert ExecutableCost().price(layer, Form(30, 13, 4, 4)) == layer.macs * 32 / 64 * 16 / 64
    assert MacsCost().price(layer, Form(30, 13, 4, 4)) == layer.macs * 32 / 64 * 13 / 64


def test_channels_of_a_group_and_of_a_transposed_convolution() -> None:
    assert dense_form(convolution(64, 32, groups=4)) == Form(16, 8, 4, 4)
    transposed = nn.ConvTranspose2d(24, 12, 3, groups=2)
    layer = Layer("up", "ConvTranspose2d", tuple(transposed.weight.shape), 2, 1.0, "")
    assert dense_form(layer) == Form(12, 6, 4, 4)


@pytest.mark.parametrize(
    ("layer", "gained"),
    [
        (convolution(64, 64, kernel=1), False),
        (convolution(64, 64), True),
        (convolution(256, 256), True),
        (convolution(256, 256, groups=2), False),
        (convolution(250, 256), False),
    ],
)
def test_the_roofline_of_an_a100_says_which_layers_gain(layer: Layer, gained: bool) -> None:
    shares = cost.unit_costs(A100, [layer], Pattern.parse("2:4"))
    assert (float(shares[0, 0]) < 1) == gained


def test_the_roofline_halves_wide_convolutions_and_less_at_64_channels() -> None:
    def gain(channels: int) -> float:
        layer = convolution(channels, channels)
        half = A100.price(layer, Form(channels, channels, 2, 4))
        return A100.price(layer, Form(channels, channels, 4, 4)) / half

    assert gain(256) == pytest.approx(2)
    assert 1.2 < gain(64) < 1.5


def test_weights_count_less_the_larger_the_picture() -> None:
    layer, form = convolution(64, 64, kernel=1), Form(64, 64, 4, 4)
    small = RooflineCost(GPUS["a100"], (16, 16)).price(layer, form)
    assert small > A100.price(layer, form)


@pytest.mark.parametrize("name", ["squeeze_linear", "rows", "transposed", "window_attention"])
def test_other_models_know_every_kind_of_layer(name: str) -> None:
    model = zoo_model(name)
    layers = find_layers(model, Pattern.parse("n:4"), (16, 16))
    others = cost.other_models(MacsCost(), SearchConfig(), (16, 16), model)
    assert [other.name for other in others] == ["executable", "latency"]
    for other in others:
        assert all(math.isfinite(other.price(layer, dense_form(layer))) for layer in layers)


def test_the_model_of_the_budget_is_not_among_the_others() -> None:
    model = zoo_model("rows")
    others = cost.other_models(ExecutableCost(), SearchConfig(), (16, 16), model)
    assert [other.name for other in others] == ["macs", "latency"]


def test_latency_of_an_unknown_gpu_is_not_told() -> None:
    others = cost.other_models(MacsCost(), SearchConfig(gpu="abacus"), (16, 16), zoo_model("rows"))
    assert [other.name for other in others] == ["executable"]
