"""SSIM against its formula, which two independent implementations compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from sls_deploy.data.samples import sample_photos
from sls_deploy.validate.metrics import luma, qualities, ssim_rgb, ssim_y
from sls_deploy.validate.ssim import Similarity, tiles

Picture = NDArray[np.uint8]


def formula(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """SSIM of one plane as Wang et al. write it, by two-dimensional convolution in float64."""
    place = np.arange(-5, 6)
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(convolve2d(values, window, mode="valid"))

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def skimage_formula(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(
        structural_similarity(
            x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def noisy(picture: Picture, sigma: float, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def plain(shape: tuple[int, int], level: int) -> Picture:
    return np.full((*shape, 3), level, np.uint8)


@pytest.mark.parametrize("shave", [0, 2, 4])
@pytest.mark.parametrize("sigma", [0.4, 5, 40])
def test_photograph_equals_both_formulas(shave: int, sigma: float) -> None:
    truth = sample_photos()["chelsea"][20:120, 100:230]
    picture = noisy(truth, sigma)
    inner = np.s_[shave : truth.shape[0] - shave, shave : truth.shape[1] - shave]
    for oracle in (formula, skimage_formula):
        expected = oracle(luma(picture[inner]), luma(truth[inner]))
        assert ssim_y(picture, truth, shave) == pytest.approx(expected, abs=1e-7)
        colours = [
            oracle(picture[inner][..., c].astype(float), truth[inner][..., c].astype(float))
            for c in range(3)
        ]
        assert ssim_rgb(picture, truth, shave) == pytest.approx(np.mean(colours), abs=1e-7)


@pytest.mark.parametrize(
    ("shown", "truth"), [(0, 255), (128, 255), (0, 140), (250, 250), (17, 213), (99, 201)]
)
def test_plain_pictures_that_are_far_off_equal_the_formula(shown: int, truth: int) -> None:
    """Float32 alone would be off by 1e-5 here."""
    a, b = plain((40, 40), shown), plain((40, 40), truth)
    assert ssim_y(a, b, 0) == pytest.approx(formula(luma(a), luma(b)), abs=1e-6)
    assert ssim_y(noisy(a, 3), b, 0) == pytest.approx(formula(luma(noisy(a, 3)), luma(b)), abs=1e-6)


def test_halves_that_are_far_off_equal_the_formula() -> None:
    truth = np.concatenate([plain((30, 60), 3), plain((40, 60), 250)])
    for picture in (255 - truth, truth // 2, plain(truth.shape[:2], 128)):
        expected = formula(luma(picture), luma(truth))
        assert ssim_y(picture, truth, 0) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60)
@given(
    st.integers(20, 90), st.integers(20, 60), st.integers(0, 255), st.integers(0, 255),
    st.floats(0, 90), st.integers(0, 9),
)  # fmt: skip
def test_any_picture_equals_the_formula(
    height: int, width: int, level: int, other: int, sigma: float, seed: int
) -> None:
    truth = noisy(plain((height, width), level), sigma, seed)
    picture = noisy((truth // 2 + np.uint8(other // 2)).astype(np.uint8), sigma / 3, seed + 1)
    (quality,) = qualities(truth, [picture], 0)
    planes = [(luma(picture), luma(truth))] + [
        (picture[..., c].astype(float), truth[..., c].astype(float)) for c in range(3)
    ]
    expected = [formula(*pair) for pair in planes]
    assert quality.ssim_y == pytest.approx(expected[0], abs=1e-6)
    assert quality.ssim_rgb == pytest.approx(np.mean(expected[1:]), abs=1e-6)


@pytest.mark.parametrize("shape", [(11, 11), (75, 523), (74, 522), (140, 30)])
def test_no_seam_between_tiles(shape: tuple[int, int]) -> None:
    truth = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    picture = noisy(truth, 20)
    expected = skimage_formula(luma(picture), luma(truth))
    assert ssim_y(picture, truth, 0) == pytest.approx(expected, abs=1e-7)


@given(st.integers(11, 1200), st.integers(11, 1200))
def test_tiles_share_places_out_and_own_every_pixel(height: int, width: int) -> None:
    places, pixels = np.zeros((height - 10, width - 10), int), np.zeros((height, width), int)
    for tile in tiles(height, width):
        top, left = tile.rows.start, tile.columns.start
        down, across = tile.places
        places[top : top + down, left : left + across] += 1
        pixels[top : top + tile.own[0], left : left + tile.own[1]] += 1
        assert (tile.rows.stop, tile.columns.stop) == (top + down + 10, left + across + 10)
    assert places.min() == places.max() == 1
    assert pixels.min() == pixels.max() == 1


def test_memory_is_used_again_without_a_trace() -> None:
    """Figures do not hang on what was measured before with the same memory."""
    similarity = Similarity()
    generator = np.random.default_rng(0)
    for shape in ((90, 70), (20, 30), (140, 600), (20, 30)):
        truth = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        pictures = [noisy(truth, 6), 255 - truth, noisy(truth, 20)]
        again = qualities(truth, pictures, 2, similarity)
        assert again == qualities(truth, pictures, 2)
        assert again == [qualities(truth, [picture], 2)[0] for picture in pictures]
