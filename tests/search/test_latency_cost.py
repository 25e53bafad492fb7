from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sls_deploy.calibration.latency import LatencyRow, LatencyTable, Machine, write_table
from sls_deploy.calibration.roofline import GPUS
from sls_deploy.config import SearchConfig
from sls_deploy.errors import SlsError
from sls_deploy.search.budget import land
from sls_deploy.search.cost import (
    ExecutableCost,
    Form,
    MacsCost,
    RooflineCost,
    TableCost,
    cost_model,
    dense_form,
    unit_costs,
)
from sls_deploy.search.layer_shapes import shapes_of_uses
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.pattern import Pattern

HD = (720, 1280)
A100 = RooflineCost(GPUS["a100"], HD)


def convolution(inputs: int, outputs: int, uses: float = 1) -> Layer:
    shape = (outputs, inputs, 3, 3)
    return Layer("body", "Conv2d", shape, 1, math.prod(shape) * uses, "")


def table(*rows: LatencyRow) -> LatencyTable:
    a10 = Machine("NVIDIA A10", "8.6", "tensorrt", "10.13", 0, "fp16")
    return LatencyTable(3, a10, 180, 320, 0.0, (), rows)


def row(layer: Layer, dense_us: float, sparse_us: float, spread: float = 0.0) -> LatencyRow:
    form = dense_form(layer)
    (shape,) = shapes_of_uses(layer, form.inputs, form.outputs, (180, 320), {})
    times = {"dense_us": dense_us, "sparse_us": sparse_us, "spread": spread, "runs": 9}
    return LatencyRow(**vars(shape), **times)


def timed(layer: Layer, dense_us: float, sparse_us: float, spread: float = 0.0) -> LatencyTable:
    return table(row(layer, dense_us, sparse_us, spread))


def test_a_measured_layer_costs_its_time_for_a_pixel() -> None:
    layer = convolution(64, 64)
    model = TableCost(timed(layer, 100, 60))
    assert model.price(layer, Form(64, 64, 4, 4)) == pytest.approx(100 / (180 * 320))
    assert model.price(layer, Form(64, 64, 2, 4)) == pytest.approx(60 / (180 * 320))


@pytest.mark.parametrize("sparse", [103, 99.5])
def test_a_sparse_kernel_that_was_slower_or_hardly_faster_gains_nothing(sparse: float) -> None:
    layer = convolution(64, 64)
    model = TableCost(timed(layer, 100, sparse))
    assert unit_costs(model, [layer], Pattern.parse("n:4")).tolist() == [[1, 0, 0, 0]]


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
    costs = unit_costs(TableCost(table(*times)), layers, pattern)
    numbers = st.lists(st.floats(0, 1), min_size=pattern.units - 1, max_size=pattern.units - 1)
    products = torch.tensor([data.draw(numbers) for _ in layers]).cumprod(1)
    least = float(costs[:, 0].sum())
    kept = land(products, costs, max(budget, least), pattern.stride).tolist()
    for count, gain in zip(kept, gains, strict=True):
        assert gain or count == pattern.units


def test_a_layer_that_gains_nothing_says_why() -> None:
    assert TableCost(timed(convolution(8, 8), 1, 1)).no_gain == (
        "2:4 saves no time beyond the noise on NVIDIA A10 in fp16"
    )
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


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(SlsError, match="no latency estimate for 'voodoo2'"):
        cost_model(SearchConfig(cost="latency", gpu="voodoo2"), HD)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"latency_table": "a.json"}, r"--table a\.json: means nothing beside --cost macs"),
        ({"gpu": "l4"}, "--gpu l4: means nothing beside --cost macs"),
        ({"gpu": "l4", "cost": "executable"}, "--gpu l4: means nothing beside --cost executable"),
        (
            {"gpu": "l4", "cost": "latency", "latency_table": "a.json"},
            r"--gpu l4: means nothing beside --table a\.json",
        ),
    ],
)
def test_settings_that_the_cost_leaves_unused_are_refused(
    chosen: dict[str, str], said: str
) -> None:
    with pytest.raises(SlsError, match=said):
        cost_model(SearchConfig.model_validate(chosen), HD)


def test_doubts_about_a_table_stand_in_the_note(tmp_path: Path) -> None:
    doubted = replace(timed(convolution(64, 64), 100, 60), warnings=("it was hot",))
    path = write_table(tmp_path / "a10.json", doubted)
    settings = SearchConfig(cost="latency", latency_table=path)
    note = cost_model(settings, (180, 320)).note
    assert note.endswith("sizes of layers scaled from crops; it was hot")
    assert "widths between those measured interpolated" in note
    other = cost_model(settings, HD).note
    assert other.endswith("the network will restore pictures of 720x1280, not 180x320")
    assert "it was hot" in other


def test_an_unfinished_table_is_refused(tmp_path: Path) -> None:
    begun = replace(timed(convolution(64, 64), 100, 60), drift=None)
    path = write_table(tmp_path / "a10.json", begun)
    with pytest.raises(SlsError, match=r"a10\.json: .*unfinished.* goes on with it"):
        cost_model(SearchConfig(cost="latency", latency_table=path), HD)


def test_a_layer_is_priced_at_the_size_of_each_use() -> None:
    layer = replace(convolution(64, 64, uses=1.25), uses=2)
    whole = row(convolution(64, 64), 100, 60)
    small = replace(whole, height=90, width=160, dense_us=30.0, sparse_us=29.9)
    sizes = {layer.name: ((180, 320), (90, 160))}
    model = TableCost(table(whole, small), sizes)
    assert model.price(layer, Form(64, 64, 4, 4)) * 180 * 320 == pytest.approx(130)
    assert model.price(layer, Form(64, 64, 2, 4)) * 180 * 320 == pytest.approx(90)
    assert "scaled" not in model.note


def test_a_layer_that_runs_several_times_costs_as_many() -> None:
    once, often = convolution(64, 64), replace(convolution(64, 64, uses=3), uses=3)
    for model in (TableCost(timed(once, 100, 60)), A100):
        for kept in (2, 4):
            form = Form(64, 64, kept, 4)
            assert model.price(often, form) == pytest.approx(3 * model.price(once, form))
