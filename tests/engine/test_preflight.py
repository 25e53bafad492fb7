from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sls_deploy.engine.preflight import check_layers, name_layer
from sls_deploy.errors import SlsError

Maker = Callable[..., onnx.ModelProto]


def test_names_the_weight_of_every_node(tmp_path: Path, make_network: Maker) -> None:
    layers = check_layers(make_network(tmp_path / "model.onnx"), "model.onnx")
    assert layers["conv1"] == "network.1.weight"
    assert len(layers) == 6


def test_a_layer_of_zeros_is_refused(tmp_path: Path, make_network: Maker) -> None:
    model = make_network(tmp_path / "model.onnx")
    weight = model.graph.initializer[2]
    zeros = np.zeros_like(numpy_helper.to_array(weight))
    weight.CopyFrom(numpy_helper.from_array(zeros, weight.name))
    with pytest.raises(SlsError, match=r"x\.onnx: .*'network\.2\.weight' are zero"):
        check_layers(model, "x.onnx")


@pytest.mark.parametrize("quoted", ["'Conv_1'", "[Conv_1]"])
def test_an_error_about_a_node_names_its_layer(quoted: str) -> None:
    layers = {"Conv_10": "a.weight", "Conv_1": "b.c.weight"}
    told = name_layer(f"the Conv_1 engine: node {quoted} (Conv): bad", layers)
    assert told == f"the Conv_1 engine: node {quoted}, layer b.c (Conv): bad"


def test_another_error_stays_as_it_is() -> None:
    assert name_layer("no conv1 here", {"conv1": "b.weight"}) == "no conv1 here"
