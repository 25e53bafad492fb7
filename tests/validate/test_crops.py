from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sls_deploy.data.images import read_image
from sls_deploy.data.truth import Pair
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.crops import choose_pictures, where_most, write_crops
from sls_deploy.validate.figures import DENSE, SPARSE
from tests.validate.flows import stage

BAD = (slice(60, 70), slice(30, 40))
"""Where the sparse network errs."""


@pytest.fixture
def outputs() -> dict[str, Pictures]:
    """Of a grey picture of 96x80; the sparse network has a white spot."""
    dense = np.full((1, 3, 96, 80), 0.5, np.float32)
    sparse = dense.copy()
    sparse[0, :, BAD[0], BAD[1]] = 1
    return {DENSE: dense, SPARSE: sparse}


def pair(*, truth: bool = True) -> Pair:
    grey = np.full((96, 80, 3), 128, np.uint8)
    return Pair("a.png", grey[::2, ::2], grey if truth else None)


@given(arrays(np.float64, (7, 9), elements=st.integers(0, 9)), st.integers(1, 7), st.integers(1, 9))
def test_window_of_the_largest_sum(values: np.ndarray, height: int, width: int) -> None:
    top, left = where_most(values, height, width)
    sums = {
        (row, column): values[row : row + height, column : column + width].sum()
        for row in range(8 - height)
        for column in range(10 - width)
    }
    assert sums[top, left] == max(sums.values())


def test_equal_values_give_the_middle() -> None:
    assert where_most(np.ones((10, 20)), 4, 4) == (3, 8)


@pytest.mark.parametrize("truth", [True, False])
def test_part_holds_what_went_wrong(
    outputs: dict[str, Pictures], tmp_path: Path, truth: bool
) -> None:
    folder = tmp_path / "b0.50" / "a"
    crop = write_crops(folder, tmp_path, pair(truth=truth), "worst", "loses 1 dB", outputs, side=32)
    assert (crop.height, crop.width) == (32, 32)
    assert crop.top <= BAD[0].start <= BAD[0].stop <= crop.top + 32
    assert crop.left <= BAD[1].start <= BAD[1].stop <= crop.left + 32
    assert ("truth" in crop.files) == truth
    sparse = read_image(tmp_path / crop.files[SPARSE])
    assert sparse.shape == (32, 32, 3)
    assert (sparse == 255).all(2).sum() == 100
    assert (read_image(tmp_path / crop.files[DENSE]) == 128).all()


def test_input_is_enlarged_to_the_size_of_the_output(
    outputs: dict[str, Pictures], tmp_path: Path
) -> None:
    crop = write_crops(tmp_path, tmp_path, pair(), "median", "", outputs)
    assert (crop.height, crop.width) == (96, 80)
    assert read_image(tmp_path / crop.files["input"]).shape == (96, 80, 3)


def test_worst_and_median_are_those_of_the_last_stage() -> None:
    flow = [stage(DENSE, [30, 30, 30]), stage(SPARSE, [29, 29.9, 29.5])]
    assert choose_pictures(flow, "psnr_y") == [
        ("a", "worst", "loses 1.00 dB"),
        ("c", "median", "loses 0.50 dB"),
    ]


def test_one_picture_is_shown_once() -> None:
    flow = [stage(DENSE, [30]), stage(SPARSE, [30.2])]
    assert choose_pictures(flow, "psnr_y") == [("a", "worst", "gains 0.20 dB")]


def test_without_truth_the_farthest_from_pytorch_is_worst() -> None:
    flow = [
        stage(DENSE, None, [None] * 3),
        stage(SPARSE, None, [40, 41, 42]),
        stage("ONNX fp32", None, [140, 120, None]),
    ]
    assert choose_pictures(flow, "psnr_y") == [
        ("b", "worst", f"lies 120.0 dB from {SPARSE}"),
        ("a", "median", f"lies 140.0 dB from {SPARSE}"),
    ]
