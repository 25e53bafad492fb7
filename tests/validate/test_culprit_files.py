"""Culprits in real ONNX files, damaged on purpose, and in the ratios of real forms of layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sls_deploy.export.bisect import Bisection, bisect_pytorch
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.parity import Batch
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.culprit import find_culprit, place_of_error
from sls_deploy.validate.figures import DENSE, SPARSE, Culprit, Gate
from sls_deploy.validate.metrics import psnr
from tests.export.exported_graphs import exported, folded
from tests.validate.flows import stage

DEGRADED = np.random.default_rng(0).random((1, 3, 130, 110), dtype=np.float32)


def damaged(name: str, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The small residual network with one initialiser changed."""
    model = onnx.load_model_from_string(to_bytes(exported("residual")))
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    array = change(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model.SerializeToString()


def blamed(content: bytes) -> Culprit:
    """Who is to blame for the fidelity of a file on the input above."""
    expected = TorchRunner(folded("residual")).run(DEGRADED)
    output = OnnxRunner(content).run(DEGRADED)
    level = psnr(output, expected, peak=1)
    assert level < 60

    def bisect(part: Pictures) -> Bisection:
        assert max(part.shape[2:]) <= 96
        return bisect_pytorch(folded("residual"), content, [Batch(("it",), part)], "fp32")

    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30], [level])]
    gate = Gate("ONNX fp32", "fidelity", "", 80, level, passed=False, picture="a", culprit=None)
    place = place_of_error(expected, output, 1)
    return find_culprit(
        gate, flow, (), DEGRADED, {"ONNX fp32": bisect}, None, "psnr_y", lambda: place
    )


@pytest.mark.parametrize("layer", ["entry", "body.0.second", "body.1.first", "exit"])
def test_layer_of_a_scaled_weight_is_named(layer: str) -> None:
    culprit = blamed(damaged(f"{layer}.weight", lambda weight: weight * 1.05))
    assert (culprit.cause, culprit.layer) == ("ONNX export", layer)
    assert f"'{layer}.Conv' is the first below 80 dB" in culprit.finding


def test_layer_with_two_channels_swapped_is_named() -> None:
    def swap(weight: np.ndarray) -> np.ndarray:
        return weight[:, [1, 0, *range(2, weight.shape[1])]]

    assert blamed(damaged("body.1.second.weight", swap)).layer == "body.1.second"


def ratios(**layer: Any) -> dict[str, Any]:
    plain = {"of": 4, "shape": [16, 16, 3, 3], "width": [16, 16]}
    return {
        "layers": [
            {"name": "a", "kept": 1, "sensitivity": [[1, 8e-5], [2, 1e-5], [4, 0.0]], **plain},
            {"name": "b", "kept": 2, "sensitivity": [[1, 9e-5], [2, 3e-5], [4, 0.0]], **plain}
            | layer,
        ]
    }


def pruned(found: dict[str, Any]) -> Culprit:
    flow = [stage(DENSE, [30]), stage(SPARSE, [28])]
    gate = Gate(SPARSE, "loss", "", 1, 2.0, passed=False, picture="a", culprit=None)
    return find_culprit(gate, flow, (), DEGRADED, {}, found, "psnr_y")


def test_what_layers_keep_decides_what_they_lose() -> None:
    culprit = pruned(ratios())
    assert culprit.layer == "a"
    assert "layer 'a' has 73 %" in culprit.finding


def test_layers_that_were_filled_up_lose_less() -> None:
    culprit = pruned({**ratios(), "refill": {"layers": ["a"]}})
    assert culprit.layer == "b"
    assert "layer 'b' has 75 %" in culprit.finding


def test_narrower_layers_are_told_as_what_no_figure_covers() -> None:
    culprit = pruned(ratios(width=[8, 16]))
    told = "what 1 narrower ones lose by that was not measured layer by layer"
    assert culprit.finding.endswith(told)


def test_network_that_was_narrowed_alone_names_no_layer() -> None:
    found = ratios(width=[8, 16])
    for layer in found["layers"]:
        layer["kept"] = 4
    culprit = pruned(found)
    assert culprit.layer == ""
    assert "narrower" in culprit.finding


def test_the_same_part_is_compared_whatever_the_place() -> None:
    seen = []

    def bisect(part: Pictures, found: list[tuple[int, ...]]) -> Bisection:
        found.append(part.shape)
        return Bisection(80, (), None, None)

    flow = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30], [40])]
    gate = Gate("ONNX fp32", "fidelity", "", 80, 40.0, passed=False, picture="a", culprit=None)
    told = {"ONNX fp32": partial(bisect, found=seen)}
    corners = [(0, 0), (129, 109), (64, 3)]
    for place in corners:
        find_culprit(gate, flow, (), DEGRADED, told, None, "psnr_y", lambda at=place: at)
    assert seen == [(1, 3, 96, 96)] * 3
