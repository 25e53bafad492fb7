from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.validate.metrics import (
    fidelity,
    luma,
    psnr,
    psnr_rgb,
    psnr_y,
    qualities,
    ssim_rgb,
    ssim_y,
    to_uint8,
)

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
    assert to_uint8(image.astype(np.float16)).tolist() == to_uint8(image).tolist()
    assert to_uint8(image.astype(np.float64)).tolist() == to_uint8(image).tolist()


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


def test_ssim_of_equal_pictures_is_one(pictures: tuple[Picture, Picture]) -> None:
    assert ssim_y(pictures[0], pictures[0], shave=2) == pytest.approx(1, abs=1e-12)
    assert ssim_rgb(pictures[0], pictures[0], shave=2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("shave", [0, 4])
def test_all_at_once_is_each_alone(pictures: tuple[Picture, Picture], shave: int) -> None:
    truth, picture = pictures
    blue = truth.copy()
    blue[..., 2] ^= 1  # a tenth of a level of luma
    planar = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    for quality, one in zip(
        qualities(truth, [picture, planar, blue], shave), (picture, planar, blue), strict=True
    ):
        assert quality.psnr_y == pytest.approx(psnr_y(one, truth, shave), abs=1e-5)
        assert quality.psnr_rgb == pytest.approx(psnr_rgb(one, truth, shave), abs=1e-5)
        assert quality.ssim_y == ssim_y(one, truth, shave)
        assert quality.ssim_rgb == ssim_rgb(one, truth, shave)
        assert quality.lpips is None


def test_exact_picture_counts_as_100_db(pictures: tuple[Picture, Picture]) -> None:
    (quality,) = qualities(pictures[0], [pictures[0].copy()], 0)
    assert (quality.psnr_y, quality.psnr_rgb) == (100, 100)
    nearly = np.zeros((2000, 1900, 3), np.uint8)
    nearly[0, 0, 2] = 1  # 113 dB
    assert qualities(np.zeros_like(nearly), [nearly], 0)[0].psnr_rgb == 100


@given(
    arrays(np.float32, array_shapes(max_side=40), elements=st.floats(-1, 2, width=32)), st.data()
)
def test_fidelity_equals_its_formulas(expected: NDArray[np.float32], data: st.DataObject) -> None:
    elements = st.floats(-1, 2, width=32)
    output = data.draw(arrays(np.float32, expected.shape, elements=elements))
    found = fidelity(output, expected)
    differences = np.abs(output - expected).astype(np.float64)
    if not differences.any():
        assert (found.psnr_db, found.max_error, found.p999_error) == (None, 0, 0)
        return
    assert found.psnr_db == pytest.approx(
        psnr(differences, np.zeros(()) * differences, 1), abs=1e-4
    )
    assert found.max_error == differences.max()
    assert found.p999_error == pytest.approx(np.percentile(differences, 99.9), rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 999, 1000, 1001, 70_000, 462_963])
@pytest.mark.parametrize("levels", [None, 3])
def test_upper_percentile_of_many_values_is_exact(size: int, levels: int | None) -> None:
    """Also where most values are equal."""
    output = np.random.default_rng(size).exponential(0.01, size).astype(np.float32)
    if levels:
        output = np.round(output * levels * 50) / np.float32(levels * 50)
    expected = np.zeros_like(output)
    found = fidelity(output, expected)
    assert found.p999_error == pytest.approx(np.percentile(output.astype(float), 99.9), rel=1e-9)


def test_fidelity_of_tiny_and_of_huge_differences() -> None:
    zeros = np.zeros(5000, np.float32)
    for size in (1e-30, 1e-7, 1e25):
        found = fidelity(zeros + np.float32(size), zeros)
        assert found.psnr_db == pytest.approx(-20 * np.log10(size), abs=1e-4)
        assert found.max_error == found.p999_error == pytest.approx(size)


def test_different_shapes_are_refused(pictures: tuple[Picture, Picture]) -> None:
    for measure in (psnr_y, psnr_rgb, ssim_y, ssim_rgb):
        with pytest.raises(SlsError, match=r"\(48, 56, 3\) and \(48, 55, 3\)"):
            measure(pictures[0], pictures[1][:, 1:], 2)
    with pytest.raises(SlsError, match="different shapes"):
        psnr(np.zeros(3), np.zeros((3, 1)), peak=1)
    with pytest.raises(SlsError, match="different shapes"):
        fidelity(np.zeros(3, np.float32), np.zeros((3, 1), np.float32))


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
