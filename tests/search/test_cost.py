from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sls_deploy.calibration.latency import LatencyRow, LatencyTable, Machine, write_table
from sls_deploy.calibration.roofline import GPUS
from sls_deploy.config import SearchConfig
from sls_deploy.errors import SlsError
from sls_deploy.search import cost
from sls_deploy.search.budget import land
from sls_deploy.search.cost import (
    CostModel,
    ExecutableCost,
    Form,
    MacsCost,
    RooflineCost,
    TableCost,
    cost_model,
    dense_form,
    layer_shape,
    runs_sparse,
)
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.pattern import Pattern

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


def table(*rows: LatencyRow) -> LatencyTable:
    a10 = Machine("NVIDIA A10", "8.6", "tensorrt", "10.13", 0, "fp16")
    return LatencyTable(2, a10, 180, 320, 0.0, (), rows)


def row(layer: Layer, dense_us: float, sparse_us: float, spread: float = 0.0) -> LatencyRow:
    shape = layer_shape(layer, dense_form(layer), (180, 320))
    times = {"dense_us": dense_us, "sparse_us": sparse_us, "spread": spread, "runs": 9}
    return LatencyRow(**vars(shape), **times)


def timed(layer: Layer, dense_us: float, sparse_us: float, spread: float = 0.0) -> LatencyTable:
    return table(row(layer, dense_us, sparse_us, spread))


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


def test_a_measured_layer_costs_its_time_for_a_pixel() -> None:
    layer = convolution(64, 64)
    model = TableCost(timed(layer, 100, 60))
    assert model.price(layer, Form(64, 64, 4, 4)) == pytest.approx(100 / (180 * 320))
    assert model.price(layer, Form(64, 64, 2, 4)) == pytest.approx(60 / (180 * 320))


@pytest.mark.parametrize("sparse", [103, 99.5])
def test_a_sparse_kernel_that_was_slower_or_hardly_faster_gains_nothing(sparse: float) -> None:
    layer = convolution(64, 64)
    model = TableCost(timed(layer, 100, sparse))
    assert cost.unit_costs(model, [layer], Pattern.parse("n:4")).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(("spread", "counts"), [(0.02, True), (0.15, False)])
def test_what_2_4_saves_must_be_more_than_the_noise(spread: float, counts: bool) -> None:
    layer = convolution(64, 64)
    model = TableCost(timed(layer, 100, 90, spread))
    assert model.price(layer, Form(64, 64, 2, 4)) * 180 * 320 == pytest.approx(
        90 if counts else 100
    )


@given(
    st.lists(st.booleans(), min_size=2, max_size=6).filter(any),
    st.floats(0.5, 1.0),
    st.data(),
)
@settings(max_examples=50)
def test_a_learnt_search_leaves_layers_whole_that_gain_nothing(
    gains: list[bool], budget: float, data: st.DataObject
) -> None:
    """Wherever its scores ended: their units cost nothing, so all of them come back."""
    layers = [convolution(16 * n, 64) for n in range(1, len(gains) + 1)]
    times = [
        row(layer, 100, 40 if gain else 100) for layer, gain in zip(layers, gains, strict=True)
    ]
    pattern = Pattern.parse("2:4")
    costs = cost.unit_costs(TableCost(table(*times)), layers, pattern)
    numbers = st.lists(st.floats(0, 1), min_size=pattern.units - 1, max_size=pattern.units - 1)
    products = torch.tensor([data.draw(numbers) for _ in layers]).cumprod(1)
    least = float(costs[:, 0].sum())
    kept = land(products, costs, max(budget, least), pattern.stride).tolist()
    for count, gain in zip(kept, gains, strict=True):
        assert gain or count == pattern.units


def test_a_layer_that_gains_nothing_says_why() -> None:
    assert TableCost(timed(convolution(8, 8), 1, 1)).no_gain == "2:4 saves no time on NVIDIA A10"
    assert A100.no_gain == "2:4 saves no time on a100, by the estimate"
    assert MacsCost().no_gain == "2:4 saves nothing by the cost model macs"


def test_a_layer_that_was_not_measured_is_named() -> None:
    model = TableCost(timed(convolution(64, 64), 100, 60))
    with pytest.raises(SlsError, match="Conv2d 3x3 32->32 at 180x320 was not measured"):
        model.price(convolution(32, 32), Form(32, 32, 4, 4))


@pytest.mark.parametrize(
    ("chosen", "kind", "note"),
    [
        ({"cost": "macs"}, MacsCost, "multiply-accumulates"),
        ({"cost": "executable"}, ExecutableCost, "2:4 one 1/2"),
        ({"cost": "latency"}, RooflineCost, "estimate, not measured: roofline of a10 .* 720x1280"),
        ({"cost": "latency", "gpu": "RTX 3090"}, RooflineCost, "estimate, .* rtx3090"),
    ],
)
def test_settings_choose_the_model(chosen: dict[str, str], kind: type, note: str) -> None:
    model = cost_model(SearchConfig.model_validate(chosen), HD)
    assert isinstance(model, kind)
    assert model.name == chosen["cost"]
    assert not model.measured
    assert re.search(note, model.note)


def test_a_measured_table_stands_over_the_estimate(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a10.json", timed(convolution(64, 64), 100, 60))
    model = cost_model(SearchConfig(cost="latency", latency_table=path), HD)
    assert (model.name, model.measured) == ("latency", True)
    assert model.note.startswith("measured on NVIDIA A10 with tensorrt 10.13 in fp16")


def test_an_unknown_gpu_is_refused_only_where_it_is_asked_for() -> None:
    cost_model(SearchConfig(cost="macs", gpu="voodoo2"), HD)
    with pytest.raises(SlsError, match="no latency estimate for 'voodoo2'"):
        cost_model(SearchConfig(cost="latency", gpu="voodoo2"), HD)


@pytest.mark.parametrize(
    ("share", "uses", "size"),
    [(1, 1, (180, 320)), (0.25, 1, (90, 160)), (16, 1, (720, 1280)), (4, 4, (180, 320))],
)
def test_a_use_of_a_layer_has_the_size_of_its_share_of_the_picture(
    share: float, uses: int, size: tuple[int, int]
) -> None:
    layer = replace(convolution(64, 256, uses=share), uses=uses)
    shape = layer_shape(layer, dense_form(layer), (180, 320))
    assert (shape.height, shape.width) == size


def test_a_layer_that_runs_several_times_costs_as_many() -> None:
    once, often = convolution(64, 64), replace(convolution(64, 64, uses=3), uses=3)
    for model in (TableCost(timed(once, 100, 60)), A100):
        for kept in (2, 4):
            form = Form(64, 64, kept, 4)
            assert model.price(often, form) == pytest.approx(3 * model.price(once, form))


def test_steps_that_are_not_said_are_1() -> None:
    assert layer_shape(convolution(8, 8), Form(8, 8, 4, 4), HD).stride == (1, 1)
    strided = replace(convolution(8, 8), stride=(2, 2))
    assert layer_shape(strided, Form(8, 8, 4, 4), HD).stride == (2, 2)
