from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.signal import convolve2d

from sls_deploy.errors import SlsError
from sls_deploy.validate.metrics import luma, psnr, psnr_y, ssim_y, to_uint8

Picture = NDArray[np.uint8]


@pytest.fixture
def pictures() -> tuple[Picture, Picture]:
    generator = np.random.default_rng(0)
    smooth = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    noise = generator.normal(0, 12, smooth.shape)
    return smooth, np.clip(smooth + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481), ((0, 0, 255), 40.966)],
)
def test_luma_of_known_colours(colour: tuple[int, int, int], expected: float) -> None:
    picture = np.full((2, 3, 3), colour, np.uint8)
    assert luma(picture).shape == (2, 3)
    assert luma(picture)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_values_are_clipped_and_rounded() -> None:
    image = np.array([[[-0.2, 0.0, 0.49 / 255], [0.51 / 255, 1.0, 7.5]]], np.float32)
    assert to_uint8(image).tolist() == [[[0, 0, 0], [1, 255, 255]]]
    assert to_uint8(image).dtype == np.uint8


@given(arrays(np.uint8, (4, 5, 3)))
def test_every_level_survives_the_way_through_floats(picture: Picture) -> None:
    np.testing.assert_array_equal(to_uint8(picture.astype(np.float32) / 255), picture)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(SlsError, match="not finite"):
        to_uint8(np.array([[[0.5, value, 0.5]]], np.float32))


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((8, 8, 3))
    assert psnr(black, black + 0.1, peak=1) == pytest.approx(20)
    assert psnr(black, black + 255, peak=255) == pytest.approx(0)


def test_psnr_of_equal_values_is_infinite() -> None:
    values = np.random.default_rng(0).random((3, 4))
    assert psnr(values, values.copy(), peak=1) == np.inf


@given(st.integers(1, 200), st.integers(0, 5))
def test_psnr_y_of_a_known_error(error: int, shave: int) -> None:
    black = np.zeros((16, 16, 3), np.uint8)
    grey = np.full_like(black, error)
    expected = 20 * np.log10(255 / (error * 219 / 255))
    assert psnr_y(black, grey, shave) == pytest.approx(expected)


def test_psnr_y_leaves_out_exactly_the_border(pictures: tuple[Picture, Picture]) -> None:
    picture = pictures[0]
    changed = picture.copy()
    changed[:4], changed[-4:], changed[:, :4], changed[:, -4:] = 0, 0, 0, 0
    assert psnr_y(picture, changed, shave=4) == np.inf
    assert psnr_y(picture, changed, shave=3) < np.inf


@pytest.mark.parametrize("shave", [0, 2, 4])
def test_ssim_equals_its_formula(pictures: tuple[Picture, Picture], shave: int) -> None:
    place = np.arange(-5, 6)
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(convolve2d(values, window, mode="valid"))

    inner = np.s_[shave : 48 - shave, shave : 56 - shave]
    x, y = (luma(picture)[inner] for picture in pictures)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    assert ssim_y(*pictures, shave) == pytest.approx(similarity.mean(), abs=1e-10)


def test_ssim_of_equal_pictures_is_one(pictures: tuple[Picture, Picture]) -> None:
    assert ssim_y(pictures[0], pictures[0], shave=2) == pytest.approx(1, abs=1e-12)


def test_different_shapes_are_refused(pictures: tuple[Picture, Picture]) -> None:
    for measure in (psnr_y, ssim_y):
        with pytest.raises(SlsError, match=r"\(48, 56, 3\) and \(48, 55, 3\)"):
            measure(pictures[0], pictures[1][:, 1:], 2)
    with pytest.raises(SlsError, match="different shapes"):
        psnr(np.zeros(3), np.zeros((3, 1)), peak=1)


def test_pictures_too_small_are_refused() -> None:
    picture = np.zeros((14, 20, 3), np.uint8)
    with pytest.raises(SlsError, match=r"20x14 shaved by 2 is too small.* need 15 pixels"):
        ssim_y(picture, picture, shave=2)
    assert psnr_y(picture, picture, shave=6) == np.inf
    with pytest.raises(SlsError, match=r"20x14 shaved by 7 is too small.* need 15 pixels"):
        psnr_y(picture, picture, shave=7)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; import sls_deploy.validate.metrics;"
        "sys.exit(any(name in sys.modules for name in ('skimage', 'scipy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
