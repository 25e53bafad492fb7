"""What the receptive field of a graph cannot be found for, and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from sls_deploy.receptive.field import receptive_field
from tests.receptive.field_graphs import Graph


def refused(graph: Graph) -> str:
    field = receptive_field(graph.model())
    assert field.pixels is None
    return field.reason


def test_cutting_the_picture_is_named() -> None:
    graph = Graph()
    bounds = [graph.constant([value], np.int64) for value in (0, 8, 2)]
    graph.add("Slice", "input", *bounds)
    assert refused(graph) == "its Slice 'value0' cuts the picture"


def test_a_mean_over_the_picture_is_named() -> None:
    graph = Graph()
    graph.add("ReduceMean", "input", graph.constant([2, 3], np.int64))
    assert refused(graph) == "its ReduceMean 'value0' looks at the whole picture"


def test_places_as_a_sequence_are_named() -> None:
    graph = Graph()
    graph.add("Reshape", "input", graph.constant([0, 0, -1], np.int64))
    assert refused(graph) == "its Reshape 'value0' lays out pixels in a way that is not followed"


def test_padding_around_is_named() -> None:
    graph = Graph()
    widths = graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    graph.add("Pad", "input", widths, mode="wrap")
    assert refused(graph) == "its Pad 'value0' brings together opposite borders of the picture"


def test_patches_joined_to_a_picture_are_named() -> None:
    graph = Graph()
    graph.add("Concat", "input", "input", axis=2)
    assert refused(graph) == "its Concat 'value0' joins pictures side by side"


def test_an_unknown_operator_is_named() -> None:
    graph = Graph()
    graph.add("GlobalAveragePool")
    assert "GlobalAveragePool 'value0' looks at the whole picture or is not known" in refused(graph)


@pytest.mark.parametrize("block", [2**30, -1, 0])
def test_blocks_that_nobody_has_end_it_at_once(block: int) -> None:
    graph = Graph()
    graph.add("DepthToSpace", blocksize=block)
    assert refused(graph).startswith("its DepthToSpace 'value0'")


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [0, 0]}, {"strides": [1]}, {"pads": [-1] * 4}, {"dilations": [2**40] * 2}],
)
def test_windows_that_nobody_has_are_refused(attributes: dict[str, list[int]]) -> None:
    graph = Graph()
    graph.add("MaxPool", kernel_shape=[3, 3], **attributes)
    assert refused(graph).startswith("its MaxPool 'value0'")


def test_products_of_two_things_seen_are_named() -> None:
    graph = Graph()
    graph.add("MatMul", "input", "input")
    assert "MatMul 'value0' computes with several things" in refused(graph)


def test_an_output_that_is_smaller_than_the_picture_is_none() -> None:
    graph = Graph()
    graph.conv(3, 2, (1, 1))
    assert refused(graph) == "its output is smaller than the picture"


def test_what_does_not_reach_the_output_does_not_matter() -> None:
    graph = Graph()
    graph.add("GlobalAveragePool")
    graph.add("Relu", "input")
    assert receptive_field(graph.model()).pixels == 0


def test_a_table_with_a_number_for_every_place_is_not_exact() -> None:
    graph = Graph(sides=(4, 5))
    graph.add("Add", "input", graph.constant(np.ones((1, 1, 4, 5))))
    field = receptive_field(graph.model())
    assert (field.pixels, field.exact) == (0, False)
    assert field.reason == "its Add 'value0' holds a number for every place of the picture"


def test_arithmetic_with_the_size_is_not_exact() -> None:
    graph = Graph()
    size = graph.add("Shape", "input", start=2, end=3)
    graph.add("Mul", "input", graph.add("Cast", size, to=onnx.TensorProto.FLOAT))
    field = receptive_field(graph.model())
    assert (field.pixels, field.exact) == (0, False)
    assert field.reason.endswith("computes with the tile's size")


def test_an_old_opset_is_not_followed() -> None:
    graph = Graph()
    graph.add("Relu")
    model = graph.model()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 11))
    assert receptive_field(model).reason == "opset 11 is not followed"
