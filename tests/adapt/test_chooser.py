from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.adapt.chooser import Chooser
from sls_deploy.adapt.stage import AdaptResult
from sls_deploy.adapt.tradeoff import decide, weight_for_cost
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from sls_deploy.runtime.onnxruntime import OnnxRunner

Adapted = tuple[Run, AdaptResult]


@pytest.fixture
def estimator(adapted: Adapted) -> OnnxRunner:
    return OnnxRunner(adapted[0].path / "adapt" / "estimator.onnx")


def tiles(count: int, side: int) -> np.ndarray:
    """Noise of growing strength around grey."""
    noise = np.random.default_rng(0).normal(0, 1, (count, 3, side, side))
    strength = np.linspace(0, 0.3, count)[:, None, None, None]
    return np.clip(0.5 + noise * strength, 0, 1).astype(np.float32)


def test_each_tile_gets_the_least_of_error_and_weighted_cost(
    adapted: Adapted, estimator: OnnxRunner
) -> None:
    adaptation, given = adapted[1].adaptation, tiles(9, 16)
    estimated = np.exp(estimator.run(given)[:, :, 0, 0].astype(np.float64))
    weights = np.linspace(0, 3e-4, 7)
    for weight in weights:
        chosen = Chooser(adaptation, estimator, weight).choose(given)
        assert np.array_equal(chosen, decide(estimated, (0.2, 0.5), weight))


def test_choices_do_not_hang_on_the_batch(adapted: Adapted, estimator: OnnxRunner) -> None:
    weight = weight_for_cost(adapted[1].calibration, 0.35).weight
    chooser, given = Chooser(adapted[1].adaptation, estimator, weight), tiles(9, 24)
    one_by_one = [int(chooser.choose(given[place : place + 1])[0]) for place in range(9)]
    assert chooser.choose(given).tolist() == one_by_one


def test_an_estimator_of_other_candidates_is_refused(adapted: Adapted) -> None:
    network = OnnxRunner(adapted[0].folder("export", 0.5) / "model.fp32.onnx", "estimator")
    with pytest.raises(
        SlsError, match=r"estimator: gives \[2, 3, 32, 32\], where .*\[2, 2, 1, 1\]"
    ):
        Chooser(adapted[1].adaptation, network, 0.0).choose(tiles(2, 16))
