from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.uint8_io import Uint8Pictures
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model
from sls_deploy.receptive.field import ReceptiveField, receptive_field
from sls_deploy.runtime.runner import Pictures
from tests.export.exported_graphs import exported
from tests.receptive.field_graphs import Graph, Oracle

SIDE = 96


def picture(height: int, width: int = 0, channels: int = 1) -> Pictures:
    rng = np.random.default_rng(height)
    return rng.random((1, channels, height, width or height), dtype=np.float32)


def as_proto(graph: ir.Model) -> onnx.ModelProto:
    return onnx.load_model_from_string(to_bytes(graph))


def places(side: int, width: int = 0) -> list[tuple[int, int]]:
    """Pixels in the middle, at borders and beside them."""
    width = width or side
    rows = (0, 1, side // 2, side // 2 + 1, side - 2, side - 1)
    columns = (width // 2 + 1, 0, width // 3, width - 1, width // 2, 2)
    return list(zip(rows, columns, strict=True))


@dataclass(frozen=True)
class Case:
    """A random graph of one channel."""

    model: onnx.ModelProto
    scale: int
    """Output pixels for one input pixel."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A graph of up to five operators, brought back to the picture's own grid or a finer one."""
    graph, spacing = Graph(), Fraction(1)
    number = st.integers
    kinds = ["conv", "pool", "mean", "transposed", "shuffle", "resize", "pad", "beside"]
    wanted = [draw(st.sampled_from([*kinds, "unshuffle"])), *draw(st.lists(st.sampled_from(kinds)))]
    for kind in wanted[:4]:
        if kind == "conv":
            kernel, stride = draw(number(1, 4)), draw(number(1, 2))
            graph.conv(kernel, stride, [draw(number(0, 2)) for _ in "be"], draw(number(1, 2)))
            spacing *= stride
        elif kind == "pool":
            kernel, stride = draw(number(2, 4)), draw(number(1, 3))
            pads = [draw(number(0, 1))] * 4
            sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
            graph.add("MaxPool", **sizes, ceil_mode=draw(number(0, 1)))
            spacing *= stride
        elif kind == "mean":
            graph.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
            spacing *= 2
        elif kind == "transposed":
            kernel = draw(number(1, 5))
            graph.transposed(kernel, 2, draw(number(0, (kernel - 1) // 2)), draw(number(0, 1)))
            spacing /= 2
        elif kind == "shuffle":
            graph.conv(3, 1, (1, 1), outputs=4)
            graph.add("DepthToSpace", blocksize=2, mode=draw(st.sampled_from(["DCR", "CRD"])))
            spacing /= 2
        elif kind == "unshuffle":
            graph.add("SpaceToDepth", blocksize=2)
            graph.conv(3, 1, (1, 1), inputs=4)
            spacing *= 2
        elif kind == "resize":
            factor = draw(st.sampled_from([2.0, 3.0, 0.5, 1.5]))
            mode, where = draw(st.sampled_from(RESIZING))
            graph.resize(factor, mode=mode, coordinate_transformation_mode=where)
            spacing /= Fraction(factor)
        elif kind == "pad":
            widths = [0, 0, draw(number(0, 3)), draw(number(0, 2)), 0, 0] + [draw(number(0, 3))] * 2
            mode = draw(st.sampled_from(["reflect", "edge", "constant"]))
            graph.add("Pad", graph.last, graph.constant(widths, np.int64), mode=mode)
        else:
            before = graph.add("Relu")
            graph.conv(3, 1, (1, 1))
            graph.add("Concat", before, graph.last, axis=1)
            graph.conv(1, 1, (0, 0), inputs=2)
    if spacing.numerator > 1:
        graph.transposed(spacing.numerator, spacing.numerator, 0, 0)
        spacing /= spacing.numerator
    assume(spacing.denominator <= 8)
    return Case(graph.model(), spacing.denominator)


RESIZING = (
    ("nearest", "asymmetric"),
    ("nearest", "half_pixel"),
    ("linear", "half_pixel"),
    ("linear", "asymmetric"),
    ("cubic", "half_pixel"),
)


@settings(max_examples=60)
@given(cases())
def test_nothing_changes_outside_of_it(case: Case) -> None:
    field = receptive_field(case.model)
    assert field.pixels is not None
    reached = Oracle(case.model).reach(picture(48), places(48), case.scale)
    assert reached <= field.pixels


@settings(max_examples=60)
@given(cases(), st.integers(0, 30), st.integers(0, 30))
def test_the_inside_of_a_tile_is_that_of_the_whole_picture(
    case: Case, down: int, left: int
) -> None:
    field = receptive_field(case.model)
    assert (field.exact, field.reason) == (True, "")
    assert field.pixels is not None
    rows, columns = (slice(start - start % field.multiple, SIDE - 2) for start in (down, left))
    assume(rows.stop - rows.start > 2 * field.pixels)
    assume(columns.start == 0 or SIDE - columns.start > field.pixels)
    columns = slice(columns.start, SIDE)
    apart = Oracle(case.model).departure(picture(SIDE), rows, columns, field.pixels, case.scale)
    assert apart <= 1e-5


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from([1, 2, 3]),
)
def test_it_is_tight_for_convolutions(layers: list[tuple[int, int]], scale: int) -> None:
    graph = Graph()
    for kernel, dilation in layers:
        reach = dilation * (kernel - 1)
        graph.conv(kernel, 1, (reach // 2, reach - reach // 2), dilation)
    graph.conv(3, 1, (1, 1), outputs=scale**2)
    graph.add("DepthToSpace", blocksize=scale)
    model = graph.model()
    assert receptive_field(model).pixels == Oracle(model).reach(picture(48), places(48), scale)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_reflection_for_a_convolution_of_the_same_size_costs_no_more_than_zeros(mode: str) -> None:
    graph = Graph()
    for kernel in (3, 5):
        widths = [0, 0, kernel // 2, kernel // 2] * 2
        graph.add("Pad", graph.last, graph.constant(widths, np.int64), mode=mode)
        graph.conv(kernel, 1, (0, 0))
    field = receptive_field(graph.model())
    assert field == ReceptiveField(3, exact=True, multiple=1, reason="")


# Networks as they are exported


@cache
def network(name: str) -> onnx.ModelProto:
    """A small network as it is exported."""
    if name != "unet":
        return as_proto(exported(name))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"features": 4, "halvings": 2, "middle": 1}
        made = build_model(Description(name, options, 1, 1.0, least_side=4, multiple=4))
    return as_proto(to_onnx(made))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [("edsr", 8), ("carn", 21), ("unet", 21), ("pixel_unshuffle", 13), ("frames_sequence", 2)],
)
def test_the_inside_of_a_tile_of_a_network_is_exact(name: str, pixels: int) -> None:
    model = network(name)
    field = receptive_field(model)
    assert (field.pixels, field.exact, field.reason) == (pixels, True, "")
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    height = 96 + 2 * pixels // 16 * 16
    oracle, whole = Oracle(model), picture(height, 48, channels)
    scale = oracle.run(whole).shape[2] // height
    assert oracle.reach(whole, places(height, 48), scale) <= pixels
    assert 32 % field.multiple == 0
    apart = oracle.departure(whole, slice(32, height), slice(0, 48), pixels, scale)
    assert apart <= 1e-5


def test_attention_on_a_coarse_grid_has_an_end_but_is_not_exact() -> None:
    field = receptive_field(network("rlfn"))
    assert (field.pixels, field.exact, field.multiple) == (66, False, 6)
    assert field.reason == "its Resize 'block_1.esa.Resize' hangs on the tile's size"
    oracle, whole = Oracle(network("rlfn")), picture(250, 47, 3)
    assert 66 / 4 < oracle.reach(whole, places(250, 47), 4) <= 66


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("where", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("height", [61, 64, 66])
def test_a_coarse_grid_that_is_spread_over_the_picture_moves_with_its_size(
    mode: str, where: str, height: int
) -> None:
    graph = Graph()
    sides = [graph.add("Shape", "input", start=side, end=side + 1) for side in (0, 1, 2, 3)]
    size = graph.add("Concat", *sides, axis=0)
    graph.last = "input"
    graph.conv(3, 2, (0, 0))
    graph.add("MaxPool", kernel_shape=[7, 7], strides=[3, 3])
    options = {"mode": mode, "coordinate_transformation_mode": where}
    graph.add("Resize", graph.last, "", "", size, **options)
    model = graph.model()
    field = receptive_field(model)
    assert field.pixels is not None
    assert (field.exact, field.multiple) == (False, 6)
    oracle, whole = Oracle(model), picture(height, 40)
    assert oracle.reach(whole, places(height, 40)) <= field.pixels
    longer = picture(140, 24)
    assert oracle.departure(longer, slice(12, 140), slice(0, 24), field.pixels) > 1e-3


@pytest.mark.parametrize("name", ["carn", "rlfn"])
def test_precision_and_bytes_change_nothing(name: str) -> None:
    plain = receptive_field(network(name))
    half = Half("fp16")(exported(name)).model
    assert receptive_field(as_proto(half)) == plain
    in_bytes = Uint8Pictures()(half).model
    assert receptive_field(as_proto(in_bytes)) == plain


def test_quantised_weights_and_activations_change_nothing() -> None:
    graph = Graph()
    scale, zero = graph.constant(0.1), graph.constant(0, np.int8)
    weight = graph.constant(np.ones((1, 1, 3, 3)), np.int8)
    small = graph.add("QuantizeLinear", "input", scale, zero)
    back = graph.add("DequantizeLinear", small, scale, zero)
    each = graph.add("DequantizeLinear", weight, graph.constant([0.1]), axis=0)
    graph.add("Conv", back, each, pads=[1] * 4)
    assert receptive_field(graph.model()) == ReceptiveField(1, exact=True, multiple=1, reason="")


def scales_in_turn() -> Graph:
    """A picture at half of its sides, brought back to them, as SRN does."""
    graph = Graph()
    sides = [graph.add("Shape", "input", start=side, end=side + 1) for side in (0, 1, 2, 3)]
    two = graph.constant([2], np.int64)
    halves = [graph.add("Div", side, two) for side in sides[2:]]
    half = graph.add("Concat", *sides[:2], *halves, axis=0)
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    graph.add("Resize", "input", "", "", half, **options)
    small = graph.conv(3, 1, (1, 1))
    full = graph.add("Concat", *sides, axis=0)
    back = graph.add("Resize", small, "", "", full, **options)
    graph.add("Add", "input", back)
    return graph


def test_a_size_that_divides_is_a_constant_share() -> None:
    open_sides = receptive_field(scales_in_turn().model())
    assert not open_sides.exact
    model = scales_in_turn().model(multiple=4)
    field = receptive_field(model)
    assert (field.exact, field.multiple) == (True, 2)
    assert field.pixels is not None
    assert open_sides.pixels is not None
    assert field.pixels <= open_sides.pixels
    oracle, whole = Oracle(model), picture(SIDE, 40)
    assert oracle.reach(whole, places(SIDE, 40)) == field.pixels
    assert oracle.departure(whole, slice(12, SIDE), slice(8, 40), field.pixels) <= 1e-5


def test_one_size_of_a_graph_gives_what_open_ones_with_its_divisors_do() -> None:
    fixed = Graph(sides=(64, 48))
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    half = fixed.constant([1, 1, 32, 24], np.int64)
    fixed.add("Resize", "input", "", "", half, **options)
    small = fixed.conv(3, 1, (1, 1))
    back = fixed.add("Resize", small, "", "", fixed.constant([1, 1, 64, 48], np.int64), **options)
    fixed.add("Add", "input", back)
    assert receptive_field(fixed.model()) == receptive_field(scales_in_turn().model(multiple=4))


def test_channels_may_be_last_while_they_are_mixed() -> None:
    graph = Graph(channels=2)
    graph.add("Transpose", "input", perm=[0, 2, 3, 1])
    graph.add("LayerNormalization", graph.last, graph.constant([1, 2]), graph.constant([0, 1]))
    graph.add("MatMul", graph.last, graph.constant(np.ones((2, 3))))
    graph.add("Softmax", axis=-1)
    graph.add("Transpose", perm=[0, 3, 1, 2])
    graph.conv(3, 1, (1, 1), inputs=3)
    assert receptive_field(graph.model()) == ReceptiveField(1, exact=True, multiple=1, reason="")
