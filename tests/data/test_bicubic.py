from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sls_deploy.data.bicubic import Picture, crop_to_multiple, downscale, enlarge, upscale
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.validate.metrics import psnr_y

SCALES = st.sampled_from((1, 2, 3, 4, 8))


@st.composite
def pictures(draw: st.DrawFn, largest: int = 40) -> Picture:
    shape = (draw(st.integers(1, largest)), draw(st.integers(1, largest)), 3)
    return draw(arrays(np.uint8, shape))


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resize_column(column: list[int], scale: float) -> list[int]:
    """`imresize` of one column of one channel, written from MATLAB's definition, base 1."""
    length, shrink = len(column), min(scale, 1.0)
    mirror = [*range(1, length + 1), *range(length, 0, -1)]
    resized = []
    for x in range(1, int(np.ceil(round(scale * length, 9))) + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = int(np.floor(u - 2 / shrink))
        total = weight_sum = 0.0
        for j in range(left, left + int(np.ceil(4 / shrink)) + 2):
            weight = shrink * cubic(shrink * (u - j))
            weight_sum += weight
            total += weight * column[mirror[(j - 1) % (2 * length)] - 1]
        resized.append(min(255, max(0, int(np.floor(total / weight_sum + 0.5 + 1e-9)))))
    return resized


def resize_slowly(image: Picture, scale: float) -> Picture:
    for _ in range(2):
        columns = image.transpose(1, 2, 0).tolist()
        passed = [[resize_column(values, scale) for values in channels] for channels in columns]
        image = np.array(passed, np.uint8).transpose(0, 2, 1)
    return image


@given(pictures(largest=20), SCALES)
@settings(max_examples=25, deadline=None)
def test_downscale_equals_the_definition(image: Picture, scale: int) -> None:
    np.testing.assert_array_equal(downscale(image, scale), resize_slowly(image, 1 / scale))


@given(pictures(largest=9), st.sampled_from((1, 2, 3, 4)))
@settings(max_examples=25, deadline=None)
def test_upscale_equals_the_definition(image: Picture, scale: int) -> None:
    np.testing.assert_array_equal(upscale(image, scale), resize_slowly(image, scale))


def test_the_joints_between_strips_equal_the_definition() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(downscale(image, 2), resize_slowly(image, 0.5))
    np.testing.assert_array_equal(upscale(image[:40], 3), resize_slowly(image[:40], 3))


def test_an_edge_gives_the_known_overshoot() -> None:
    edge = np.repeat(np.array([0] * 8 + [200] * 8, np.uint8), 3).reshape(1, 16, 3)
    # Weights of half size are -3, -9, 29, 111, 111, 29, -9, -3 over 256.
    expected = [0, 0, 0, 13, 187, 202, 200, 200]
    assert downscale(edge, 2)[0, :, 0].tolist() == expected


@given(st.integers(0, 255), SCALES)
def test_a_constant_picture_stays_constant(value: int, scale: int) -> None:
    image = np.full((19, 23, 3), value, np.uint8)
    assert (downscale(image, scale) == value).all()
    assert (upscale(image, scale) == value).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_a_ramp_keeps_its_slope_away_from_the_border(scale: int) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (8, 120, 3))
    inner = downscale(ramp, scale)[0, 3:-3, 0].astype(int)
    assert (np.diff(inner) == 2 * scale).all()
    assert inner[0] == 2 * (3 * scale + (scale - 1) / 2)


@given(pictures(), SCALES)
def test_flipping_before_or_after_is_the_same(image: Picture, scale: int) -> None:
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)[: 4 * scale, : 6 * scale]
    for resize in (downscale, upscale):
        flipped = resize(np.ascontiguousarray(image[::-1, ::-1]), scale)
        np.testing.assert_array_equal(flipped[::-1, ::-1], resize(image, scale))


@given(pictures(), SCALES)
def test_channels_do_not_mix(image: Picture, scale: int) -> None:
    for resize in (downscale, upscale):
        whole = resize(image, scale)
        for channel in range(3):
            alone = resize(image[:, :, channel : channel + 1], scale)
            np.testing.assert_array_equal(whole[:, :, channel : channel + 1], alone)


def test_height_is_resized_and_rounded_before_width() -> None:
    image = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    other_order = downscale(np.ascontiguousarray(image.swapaxes(0, 1)), 2).swapaxes(0, 1)
    assert (downscale(image, 2) != other_order).any()
    np.testing.assert_array_equal(downscale(image, 2), resize_slowly(image, 0.5))


@given(pictures(), SCALES)
def test_sizes(image: Picture, scale: int) -> None:
    height, width = image.shape[:2]
    assert downscale(image, scale).shape == (-(-height // scale), -(-width // scale), 3)
    assert upscale(image, scale).shape == (height * scale, width * scale, 3)
    cropped = crop_to_multiple(image, scale)
    assert cropped.shape == (height - height % scale, width - width % scale, 3)
    assert downscale(image, scale).flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "scale", "decibels"),
    [("Set5", 2, 33.673), ("Set5", 4, 28.429), ("Set14", 2, 30.325), ("Set14", 4, 26.088)],
)
def test_bicubic_psnr_of_the_literature(
    shared_data: Path, name: str, scale: int, decibels: float
) -> None:
    pairs = TruthFolder(shared_data / "bench" / name, Bicubic(scale))
    measured = [psnr_y(upscale(pair.lr, scale), pair.hr, scale) for pair in pairs]
    assert np.mean(measured) == pytest.approx(decibels, abs=0.001)


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_floats_are_enlarged_as_bytes_are_but_for_rounding(
    height: int, width: int, scale: int
) -> None:
    image = np.random.default_rng(height * 100 + width).integers(64, 192, (height, width, 3))
    bytes_of = upscale(image.astype(np.uint8), scale)
    floats = enlarge(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32), scale)
    assert floats.shape == (1, 3, height * scale, width * scale)
    # Each of the two passes over bytes rounds, and the second spreads what the first did.
    assert np.abs(floats[0].transpose(1, 2, 0) - bytes_of).max() <= 1.3
