from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sls_deploy.config import ValidateConfig
from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection, Difference
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.culprit import find_culprit, place_of_error
from sls_deploy.validate.figures import DENSE, SPARSE, Culprit, StageFigures
from sls_deploy.validate.gate import judge
from sls_deploy.validate.losses import step_losses, total_losses
from tests.validate.flows import stage

INPUT = np.zeros((1, 3, 200, 120), np.float32)
RATIOS: dict[str, Any] = {
    "layers": [
        {"name": "first", "kept": 4, "of": 4, "sensitivity": [[4, 0.0], [2, 9e-5]]},
        {"name": "weak", "kept": 2, "of": 4, "sensitivity": [[4, 0.0], [2, 1e-5]]},
        {"name": "strong", "kept": 2, "of": 4, "sensitivity": [[4, 0.0], [2, 3e-5]]},
    ]
}
LOST = [stage(DENSE, [30, 30]), stage(SPARSE, [29.9, 28]), stage("ONNX fp32", [29.9, 27.9])]


def blamed(
    stages: list[StageFigures],
    judged: str,
    bisect: dict[str, Callable[[Pictures], Bisection]] | None = None,
    ratios: dict[str, Any] | None = None,
    **limits: float,
) -> Culprit:
    """Who is to blame for the first gate of a stage that fails."""
    options = ValidateConfig.model_validate(limits)
    gates = judge(stages, total_losses(stages, "psnr_y"), options)
    gate = next(item for item in gates if item.stage == judged and not item.passed)
    losses = step_losses(stages, "psnr_y")
    return find_culprit(gate, stages, losses, INPUT, bisect or {}, ratios, "psnr_y")


def value(node: str, psnr_db: float, before_db: float = 200.0) -> Difference:
    return Difference(node, node.partition(".")[0], "Conv", psnr_db, before_db, 0.1, 1.0, "[0]")


def bisection(*values: Difference) -> Bisection:
    """Values, of which those below 80 dB depart."""
    first = next((item for item in values if item.psnr_db < 80), None)
    worst = max(values, key=lambda item: item.before_db - item.psnr_db, default=None)
    return Bisection(80, values, first, worst)


def test_step_that_lost_most_is_the_cause() -> None:
    culprit = blamed(LOST, "ONNX fp32", ratios=RATIOS)
    assert (culprit.picture, culprit.cause) == ("b", "pruning")
    assert "pruning loses 2.00 of 2.10 dB there (1.05 dB over all pictures)" in culprit.finding


def test_layer_that_alone_loses_most_is_blamed_for_pruning() -> None:
    culprit = blamed(LOST, SPARSE, ratios=RATIOS)
    assert culprit.layer == "strong"
    assert "layer 'strong' has 75 % of what all layers lose" in culprit.finding


def test_search_that_measured_no_layer_names_none() -> None:
    layers = [{**layer, "sensitivity": []} for layer in RATIOS["layers"]]
    culprit = blamed(LOST, SPARSE, ratios={"layers": layers})
    assert culprit.layer == ""
    assert "did not measure" in culprit.finding


FAR = [stage(DENSE, [30]), stage(SPARSE, [30]), stage("ONNX fp32", [30], [40])]


def test_first_value_that_departs_is_named() -> None:
    seen = []

    def bisect(pictures: Pictures) -> Bisection:
        seen.append(pictures.shape)
        return bisection(value("head.Conv", 140), value("body.Conv", 41), value("tail.Conv", 40))

    culprit = blamed(FAR, "ONNX fp32", {"ONNX fp32": bisect})
    assert (culprit.cause, culprit.layer) == ("ONNX export", "body")
    assert seen == [(1, 3, 96, 96)]
    assert "on 96x96 input pixels from row 52, column 12" in culprit.finding


def test_graph_whose_values_agree_names_no_layer() -> None:
    culprit = blamed(FAR, "ONNX fp32", {"ONNX fp32": lambda _: bisection(value("head", 140))})
    assert culprit.layer == ""
    assert "none of 1 values lies below 80 dB" in culprit.finding


def test_graph_that_cannot_be_compared_says_why() -> None:
    def bisect(_: Pictures) -> Bisection:
        raise SlsError("takes pictures as bytes")

    culprit = blamed(FAR, "ONNX fp32", {"ONNX fp32": bisect})
    assert "cannot be compared layer by layer (takes pictures as bytes)" in culprit.finding


ENGINE = [
    stage(DENSE, [30]),
    stage(SPARSE, [30]),
    stage("ONNX fp32", [30], [140]),
    stage("ONNX fp16", [30], [90]),
    stage("TensorRT fp16", [30], [30]),
]


def test_engine_is_blamed_where_its_graph_agrees() -> None:
    agrees = bisection(value("head", 140), value("tail", 90))
    culprit = blamed(ENGINE, "TensorRT fp16", {"TensorRT fp16": lambda _: agrees})
    assert (culprit.cause, culprit.layer) == ("engine", "")
    assert "so it arises in the engine" in culprit.finding


def test_graph_of_an_engine_is_blamed_where_it_departs() -> None:
    departs = bisection(value("head", 140), value("tail", 30))
    culprit = blamed(ENGINE, "TensorRT fp16", {"TensorRT fp16": lambda _: departs})
    assert culprit.layer == "tail"
    assert "the ONNX file of its precision departs" in culprit.finding


@pytest.mark.parametrize("scale", [1, 2])
def test_place_of_the_error_is_told_in_input_pixels(scale: int) -> None:
    expected = np.zeros((1, 3, 100 * scale, 80 * scale), np.float32)
    output = expected.copy()
    output[..., 70 * scale, 20 * scale] = 1
    row, column = place_of_error(expected, output, scale)
    assert abs(row - 70) <= 12
    assert abs(column - 20) <= 12
