from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.adapt.skip import Skip
from sls_deploy.data.bicubic import upscale
from sls_deploy.errors import SlsError


def levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_skipping_enlarges_each_picture_by_bicubic(scale: int) -> None:
    pictures = levels(2, 3, 9, 12) // 2 + 64  # so that nothing is clipped
    enlarged = Skip(scale).run(pictures.astype(np.float32) / 255)
    assert enlarged.flags.c_contiguous
    for given, got in zip(pictures, enlarged, strict=True):
        expected = upscale(given.transpose(1, 2, 0), scale).transpose(2, 0, 1)
        assert np.abs(got * 255 - expected).max() <= 1.3  # MATLAB's two passes are rounded


def test_at_scale_one_the_middle_frame_is_left_as_it_is() -> None:
    frames = np.random.default_rng(0).random((2, 9, 8, 8), np.float32)
    assert np.array_equal(Skip(1, frames=3).run(frames), frames[:, 3:6])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(SlsError, match="skip: cannot take pictures of float64"):
        Skip(2).run(np.zeros((1, 3, 8, 8)))
