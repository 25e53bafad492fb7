from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from sls_deploy.calibration import cpu_layers
from sls_deploy.calibration.cpu_layers import CpuLayers
from sls_deploy.calibration.latency import LayerShape, LayerTime, Machine, read_table
from sls_deploy.calibration.layer_timing import measure_table
from sls_deploy.config import Config, ModelConfig, SearchConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.search.candidates import least_cost
from sls_deploy.search.cost import CostModel, Form, TableCost, cost_model, dense_form
from sls_deploy.search.interiors import Interior, narrowed_interiors
from sls_deploy.search.layer_shapes import Sizes, padded_picture, sizes_of_uses
from sls_deploy.search.measured_shapes import (
    shapes_of_network,
    shapes_to_measure,
)
from sls_deploy.search.prepare import Prepared, prepare
from sls_deploy.sparsity.pattern import Pattern

NETWORKS = {
    "edsr": Description(
        "edsr", {"features": 40, "blocks": 2, "scale": 4, "input_range": 1.0}, 4, 1.0
    ),
    "carn": Description("carn", {"features": 32, "scale": 2}, 2, 1.0),
    "carn_m": Description(
        "carn", {"features": 32, "groups": 4, "efficient": True, "shared": True, "scale": 2}, 2, 1.0
    ),
    "rfdn": Description(
        "rfdn",
        {"features": 26, "distilled": 13, "attention": 6, "blocks": 2, "scale": 4},
        4,
        255.0,
        least_side=15,
    ),
    "rlfn": Description(
        "rlfn",
        {"features": 48, "inner": 48, "attention": 16, "blocks": 1, "scale": 4},
        4,
        255.0,
        least_side=15,
    ),
    "dmphn": Description("dmphn", {"features": 8, "levels": 3}, 1, 1.0, least_side=8, multiple=8),
    "srn": Description(
        "srn",
        {"features": 8, "blocks": 1, "up_kernel": 4},
        1,
        1.0,
        least_side=16,
        multiple=16,
    ),
    "unet": Description(
        "unet", {"features": 8, "halvings": 2, "middle": 1}, 1, 1.0, least_side=4, multiple=4
    ),
}
LONG = ("carn", "srn")
"""Networks that take long, whose kinds of layers others have as well."""
PICTURE = (50, 84)
MACHINE = Machine("a made-up one", "", "onnxruntime", "1.0", 1, "fp32")


class Timer:
    """A nanosecond a multiply-accumulate; 2:4 gains nothing."""

    machine = MACHINE
    warnings = ()

    def time(self, shape: LayerShape) -> LayerTime:
        weights = shape.inputs * shape.outputs * shape.groups * math.prod(shape.kernel)
        time = 1 + weights * shape.positions / 1e3
        return LayerTime(time, time, 0.01, 9)


def settings_of(name: str, folder: Path, **search: object) -> Config:
    torch.manual_seed(0)
    weights = save_weights(folder / f"{name}.safetensors", build_model(NETWORKS[name]))
    return Config(model=ModelConfig(weights=weights), search=SearchConfig.model_validate(search))


@cache
def start(name: str) -> Prepared:
    """A network as a search starts from it."""
    return prepare(build_model(NETWORKS[name]).eval(), Config())


@cache
def interiors_of(name: str, step: int = 16) -> list[Interior]:
    graph = start(name).graph
    assert graph is not None
    names = [layer.name for layer in start(name).prunable]
    return narrowed_interiors(graph, names, Pattern.parse("2:4"), step)


def picture_of(name: str) -> tuple[int, int]:
    """What the network really gets."""
    return padded_picture(start(name).model, PICTURE)


@cache
def sizes_of(name: str) -> Sizes:
    return sizes_of_uses(start(name).model, picture_of(name))


def priced(name: str, folder: Path, step: int = 16) -> CostModel:
    """A table of made-up times of all that is to be measured, as the search reads it."""
    layers, interiors, picture = start(name).layers, interiors_of(name, step), picture_of(name)
    shapes = shapes_to_measure(layers, picture, interiors, step, sizes_of(name))
    path = folder / "table.json"
    measure_table(shapes, picture, Timer(), path)
    settings = SearchConfig(cost="latency", latency_table=path)
    return cost_model(settings, picture, start(name).model)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(pytest.param(name, 8, marks=pytest.mark.slow) for name in LONG),
        *((name, 8) for name in NETWORKS if name not in LONG),
        ("edsr", 16),
        *(pytest.param(name, 16, marks=pytest.mark.slow) for name in NETWORKS if name != "edsr"),
    ],
)
def test_a_table_of_a_network_prices_all_that_a_search_may_choose(
    name: str, step: int, tmp_path: Path
) -> None:
    model, interiors = priced(name, tmp_path, step), interiors_of(name, step)
    sizes, pixels = sizes_of(name), math.prod(picture_of(name))
    for layer in start(name).layers:
        whole = dense_form(layer)
        inputs, outputs = [whole.inputs], [whole.outputs]
        for interior in interiors:
            widths = [*range(step, interior.channels, step), interior.channels]
            inputs = widths if layer.name in interior.consumers else inputs
            outputs = widths if layer.name in interior.producers else outputs
        for i, o, kept in itertools.product(inputs, outputs, (2, 4)):
            weights = i * o * layer.groups * math.prod(layer.shape[2:])
            wanted = sum(1 + weights * h * w / 1e3 for h, w in sizes.get(layer.name, ()))
            assert model.price(layer, Form(i, o, kept, 4)) * pixels == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "kinds", "strides"),
    [
        ("edsr", {"Conv2d"}, {(1, 1)}),
        ("rfdn", {"Conv2d"}, {(1, 1), (2, 2)}),
        ("dmphn", {"Conv2d", "ConvTranspose2d"}, {(1, 1), (2, 2)}),
        pytest.param(
            "srn", {"Conv2d", "ConvTranspose2d"}, {(1, 1), (2, 2)}, marks=pytest.mark.slow
        ),
        ("unet", {"Conv2d", "ConvTranspose2d"}, {(1, 1), (2, 2)}),
    ],
)
def test_kinds_and_strides_of_layers_are_seen(
    name: str, kinds: set[str], strides: set[tuple[int, int]]
) -> None:
    shapes = shapes_to_measure(start(name).layers, PICTURE)
    assert {shape.kind for shape in shapes} == kinds
    assert {shape.stride for shape in shapes} == strides


def test_channels_are_filled_up_and_sides_rounded_up_as_for_a_search(tmp_path: Path) -> None:
    found = shapes_of_network(settings_of("rfdn", tmp_path), (10, 84))
    assert found.picture == (15, 84)
    assert found.layers == len(start("rfdn").layers)
    sizes = sizes_of_uses(start("rfdn").model, (15, 84))
    expected = shapes_to_measure(start("rfdn").layers, (15, 84), interiors_of("rfdn"), 16, sizes)
    assert list(found.shapes) == expected
    assert {shape.inputs % 4 for shape in found.shapes if shape.inputs > 4} == {0}


@pytest.mark.parametrize("search", [{"narrow": 0}, {"pattern": "n:16"}])
def test_what_never_narrows_is_measured_whole(search: dict[str, object], tmp_path: Path) -> None:
    config = settings_of("edsr", tmp_path, **search)
    whole = shapes_to_measure(start("edsr").layers, PICTURE)
    assert list(shapes_of_network(config, PICTURE).shapes) == whole


def test_no_combination_is_measured_that_cannot_occur() -> None:
    """In EDSR one convolution of a block writes the interior, and another one reads it."""
    shapes = shapes_to_measure(start("edsr").layers, PICTURE, interiors_of("edsr"), 16)
    narrow = {(s.inputs, s.outputs) for s in shapes if min(s.inputs, s.outputs) in (16, 32)}
    assert narrow == {(40, 16), (40, 32), (16, 40), (32, 40)}


def test_wide_interiors_are_measured_at_few_widths() -> None:
    (interior, *_), layers = interiors_of("edsr"), start("edsr").layers
    wide = [
        replace(layer, shape=tuple(256 if size == 40 else size for size in layer.shape))
        for layer in layers
    ]
    shapes = shapes_to_measure(wide, PICTURE, [replace(interior, channels=256)], 16)
    widths = {s.outputs for s in shapes if s.inputs == 256}
    assert widths >= {16, 32, 48, 64, 128, 256}
    assert not widths & set(range(65, 128))


def test_a_layer_that_computes_nothing_is_left_out() -> None:
    layers = start("edsr").layers
    unused = [replace(layers[0], macs=0.0, uses=0), *layers[1:]]
    assert shapes_to_measure(unused, PICTURE) == shapes_to_measure(layers[1:], PICTURE)


@pytest.mark.parametrize("name", ["rlfn", "unet"])
def test_layers_of_a_network_are_timed_on_this_processor(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.0)
    layers, path = start(name).layers, tmp_path / "table.json"
    shapes = shapes_to_measure(layers, (24, 24), interiors_of(name), 16)
    table = measure_table(shapes, (24, 24), CpuLayers(), path)
    assert read_table(path) == table
    assert len(table.rows) == len(shapes)
    for layer in layers:
        assert TableCost(table).price(layer, dense_form(layer)) > 0


def test_where_2_4_gains_nothing_narrowing_alone_saves(tmp_path: Path) -> None:
    model, layers, pattern = priced("rlfn", tmp_path), start("rlfn").prunable, Pattern.parse("2:4")
    assert least_cost(layers, pattern, {}, model) == pytest.approx(1)
    narrowest = dict.fromkeys(interiors_of("rlfn"), 16)
    assert least_cost(layers, pattern, narrowest, model) < 0.5


def test_a_table_of_another_network_names_what_is_missing(tmp_path: Path) -> None:
    model, layer = priced("edsr", tmp_path), start("carn").layers[1]
    with pytest.raises(SlsError, match=r"was not measured on a made-up one.*bench --layers"):
        model.price(layer, dense_form(layer))


def test_a_run_without_weights_is_refused() -> None:
    with pytest.raises(SlsError, match="no checkpoint was named"):
        shapes_of_network(Config(), PICTURE)
