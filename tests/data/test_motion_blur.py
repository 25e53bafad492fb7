from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sls_deploy.data.bicubic import Picture, downscale
from sls_deploy.data.images import read_image, write_image
from sls_deploy.data.motion_blur import (
    Light,
    MotionBlur,
    add_noise,
    camera_walk,
    convolve,
    decode,
    encode,
    expose,
    extent,
    half_diagonal,
    kernel,
    named_generator,
    spread,
    steadied,
)
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError

SEEDS = st.integers(0, 2**32)
LENGTHS = st.floats(0.5, 60)
WALKS = arrays(np.float64, (20, 2), elements=st.floats(-9, 9))


def walk_of(seed: int, length: float) -> NDArray[np.float64]:
    return spread(camera_walk(np.random.default_rng(seed), axes=2), length)


def light_of(seed: int, height: int = 40, width: int = 52) -> Light:
    return np.random.default_rng(seed).random((3, height, width), np.float32)


def grey(level: int = 128, height: int = 200, width: int = 240) -> Picture:
    return np.full((height, width, 3), level, np.uint8)


@given(SEEDS, LENGTHS)
@settings(max_examples=10)
def test_a_walk_is_as_long_as_asked_and_stays_in_place(seed: int, length: float) -> None:
    walk = walk_of(seed, length)
    distances = np.linalg.norm(walk[:, None] - walk, axis=2)
    assert distances.max() == pytest.approx(length)
    assert extent(walk) == pytest.approx(length)
    np.testing.assert_allclose(walk.mean(0), 0, atol=1e-9)


@given(SEEDS)
@settings(max_examples=12)
def test_a_walk_has_inertia(seed: int) -> None:
    walk = walk_of(seed, 20)
    steps = np.linalg.norm(np.diff(walk, axis=0), axis=1)
    assert steps.max() < 0.5
    turns = np.sum(np.diff(walk, axis=0)[1:] * np.diff(walk, axis=0)[:-1], axis=1)
    assert np.mean(turns > 0) > 0.9


def test_walks_range_from_arcs_to_tangles() -> None:
    ways = [np.linalg.norm(np.diff(walk_of(seed, 1), axis=0), axis=1).sum() for seed in range(100)]
    assert min(ways) < 1.3
    assert max(ways) > 4


@given(WALKS)
def test_a_kernel_shares_out_the_light_of_a_point(walk: NDArray[np.float64]) -> None:
    blur = kernel(walk)
    assert blur.sum() == pytest.approx(1)
    assert blur.min() >= 0
    assert blur.shape[0] == blur.shape[1]
    assert blur.shape[0] % 2 == 1


@given(WALKS)
def test_the_middle_of_a_kernel_is_the_mean_of_the_walk(walk: NDArray[np.float64]) -> None:
    blur = kernel(walk)
    rows, columns = np.indices(blur.shape) - len(blur) // 2
    middle = [(blur * rows).sum(), (blur * columns).sum()]
    np.testing.assert_allclose(middle, walk.mean(0), atol=1e-9)


@given(SEEDS, LENGTHS)
@settings(max_examples=12)
def test_a_kernel_reaches_no_further_than_asked(seed: int, length: float) -> None:
    lit = np.argwhere(kernel(walk_of(seed, length)) > 0)
    # Interpolation adds less than a pixel at either end of a side.
    assert (np.ptp(lit, axis=0) <= length + 2).all()


def test_a_kernel_of_whole_pixels_is_exact() -> None:
    expected = np.zeros((5, 5))
    expected[2, 2], expected[4, 1] = 0.5, 0.5
    np.testing.assert_array_equal(kernel(np.array([[0.0, 0], [2, -1]])), expected)


@given(SEEDS, st.floats(0.5, 20))
@settings(max_examples=20)
def test_a_point_becomes_the_kernel(seed: int, length: float) -> None:
    blur = kernel(walk_of(seed, length))
    radius = len(blur) // 2
    point = np.zeros((1, 2 * radius + 5, 2 * radius + 8), np.float32)
    point[0, radius + 2, radius + 4] = 1
    whole = convolve(point, blur)[0]
    np.testing.assert_allclose(whole[2:-2, 4:-3], blur, atol=1e-6)
    assert whole.sum() == pytest.approx(1, abs=1e-4)


@given(SEEDS, WALKS)
@settings(max_examples=20)
def test_light_is_neither_made_nor_lost(seed: int, walk: NDArray[np.float64]) -> None:
    # Mirrored borders give back what leaves, if the walk is mirrored too.
    signs = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    both = np.concatenate(list(signs[:, None] * walk))
    light = light_of(seed)
    blurred = convolve(light, kernel(both))
    np.testing.assert_allclose(blurred.mean((1, 2)), light.mean((1, 2)), rtol=1e-4)
    assert blurred.min() >= light.min() - 1e-5
    assert blurred.max() <= light.max() + 1e-5


@given(SEEDS, WALKS)
@settings(max_examples=20)
def test_without_roll_an_exposure_is_a_convolution(seed: int, walk: NDArray[np.float64]) -> None:
    walk = np.repeat(np.round(walk), 2, axis=0)  # whole pixels, so that nothing is interpolated
    light = light_of(seed)
    exposed = expose(light, walk, np.zeros(len(walk)))
    np.testing.assert_allclose(exposed, convolve(light, kernel(walk)), atol=2e-4)


def test_fine_movements_are_exposed_as_a_convolution() -> None:
    light, walk = decode(sample_photos()["chelsea"]), walk_of(0, 16)
    exposed = expose(light, walk, np.zeros(len(walk)))
    difference = exposed - convolve(light, kernel(walk))
    assert np.sqrt(np.mean(difference**2)) < 0.002


def test_a_shift_moves_the_picture_down_and_right() -> None:
    point = np.zeros((1, 9, 12), np.float32)
    point[0, 3, 4] = 1
    moved = expose(point, np.array([[2.0, 3.0]]), np.zeros(1))
    assert np.argwhere(moved[0] > 0.99).tolist() == [[5, 7]]
    blurred = convolve(point, kernel(np.array([[2.0, 3.0]])))
    assert np.argwhere(blurred[0] > 0.99).tolist() == [[5, 7]]


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 8)])
def test_a_quarter_turn_is_exact(height: int, width: int) -> None:
    light = light_of(0, height, width)
    turned = expose(light, np.zeros((1, 2)), np.array([np.pi / 2]))
    np.testing.assert_allclose(turned, np.rot90(light, axes=(1, 2)), atol=1e-4)


def test_borders_are_mirrored() -> None:
    light = light_of(0)
    wide = np.pad(light, ((0, 0), (9, 9), (9, 9)), "symmetric")
    walk = walk_of(1, 12)
    for blurred, whole in (
        (convolve(light, kernel(walk)), convolve(wide, kernel(walk))),
        (expose(light, walk, np.zeros(1000)), expose(wide, walk, np.zeros(1000))),
    ):
        np.testing.assert_allclose(blurred[:, :9], whole[:, 9:18, 9:-9], atol=0.01)
        np.testing.assert_allclose(blurred[:, :, -9:], whole[:, 9:-9, -18:-9], atol=0.01)


@given(st.integers(0, 255), st.booleans(), SEEDS)
@settings(max_examples=20)
def test_a_constant_picture_stays_constant(level: int, varying: bool, seed: int) -> None:
    blur = MotionBlur(length=15, varying=varying, noise=0, seed=seed)
    assert (blur.degrade(grey(level, 40, 50), "a.png") == level).all()


def test_decoding_and_encoding_give_every_level_back() -> None:
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    np.testing.assert_array_equal(encode(decode(levels)), levels)


def test_decoding_is_that_of_the_standard() -> None:
    # Middle grey reflects about a fifth of the light; the foot of the curve is straight.
    light = decode(np.array([[[0, 10, 128, 255]]], np.uint8).reshape(1, 4, 1))[0, 0]
    np.testing.assert_allclose(light, [0, 10 / 255 / 12.92, 0.215861, 1], rtol=1e-5)


def test_light_beyond_white_and_black_is_clipped() -> None:
    assert encode(np.array([[[-0.5, 1.5]]], np.float32)).ravel().tolist() == [0, 255]


def test_an_edge_is_blended_brighter_than_its_levels() -> None:
    edge = np.repeat(np.array([0] * 30 + [255] * 30, np.uint8), 3).reshape(1, 60, 3)
    edge = np.repeat(edge, 60, axis=0)
    walk = np.stack((np.zeros(200), np.linspace(-10, 10, 200)), axis=1)
    in_light = encode(convolve(decode(edge), kernel(walk)))
    in_levels = convolve(edge.transpose(2, 0, 1).astype(np.float32), kernel(walk))
    beside = slice(22, 38)
    assert (in_light[30, beside, 0] > in_levels[0, 30, beside] + 5).all()
    # Half of the light of white is level 188, not 128.
    assert in_light[30, 29:31, 0].mean() == pytest.approx(188, abs=4)


@pytest.mark.parametrize("varying", [False, True])
def test_the_same_seed_and_name_give_the_same_picture(varying: bool) -> None:
    photo = sample_photos()["coffee"][100:260, 200:400]
    one, same = (MotionBlur(varying=varying).degrade(photo, "a.png") for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (MotionBlur(varying=varying, seed=1).degrade(photo, "a.png") != one).mean() > 0.5
    assert (MotionBlur(varying=varying).degrade(photo, "b.png") != one).mean() > 0.5


def test_random_numbers_follow_from_any_name_alone() -> None:
    assert named_generator("a.png", 0).integers(10**6) == 161959
    assert named_generator(os.fsdecode(b"\xff.png"), 0).random() >= 0


def test_varying_blur_differs_over_the_picture() -> None:
    points = np.zeros((301, 301, 3), np.uint8)
    places = (150, 30, 270)
    for row in places:
        points[row, places] = 255
    shapes = {}
    for varying in (False, True):
        blur = MotionBlur(length=20, varying=varying, noise=0).degrade(points, "a.png")
        around = [
            blur[row - 24 : row + 25, column - 24 : column + 25, 0].astype(int)
            for row in places
            for column in places
        ]
        shapes[varying] = np.mean([np.abs(shape - around[0]).sum() for shape in around[1:]])
    assert shapes[False] == 0
    assert shapes[True] > 500


@given(SEEDS, st.floats(2, 30))
@settings(max_examples=8)
def test_no_point_moves_further_than_asked(seed: int, length: float) -> None:
    walk = camera_walk(np.random.default_rng(seed), axes=3)
    radius = half_diagonal(np.zeros((3, 300, 400), np.float32))
    shift, roll = spread(walk[:, :2], length / 2), spread(walk[:, 2:], length / 2)[:, 0] / radius
    for point in (200 + 150j, 0j, -200 + 150j):
        moved = point * np.exp(1j * roll) + shift @ np.array([1, 1j])
        assert np.abs(moved[:, None] - moved).max() <= length * (1 + 1e-9)


@given(SEEDS)
@settings(max_examples=10)
def test_pictures_get_a_quarter_of_the_length_or_more(seed: int) -> None:
    point = np.zeros((101, 101, 3), np.uint8)
    point[50, 50] = 255
    blur = MotionBlur(length=24, varying=False, noise=0, seed=seed).degrade(point, "a.png")
    lit = np.argwhere(blur[:, :, 0])
    furthest = np.linalg.norm(lit[:, None] - lit, axis=2).max()
    assert 6 - 2 < furthest < 24 + 3


@pytest.mark.parametrize("level", [0.5, 1.0, 3.0, 8.0])
def test_noise_has_the_asked_deviation_at_middle_grey(level: float) -> None:
    noisy = MotionBlur(noise=level).degrade(grey(128), "a.png").astype(float)
    rounding = 1 / 12
    assert noisy.std() == pytest.approx(np.sqrt(level**2 + rounding), rel=0.05)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_noise_grows_with_the_root_of_the_light() -> None:
    random = np.random.default_rng(0)
    deviations = [
        (add_noise(np.full((3, 200, 200), light, np.float32), 2, random) - light).std()
        for light in (0.0, 0.03, 0.99)
    ]
    assert deviations[1] / deviations[0] == pytest.approx(2, rel=0.02)
    assert deviations[2] / deviations[0] == pytest.approx(10, rel=0.02)


def test_no_noise_leaves_the_light_alone() -> None:
    light = light_of(0)
    assert add_noise(light, 0, np.random.default_rng(0)) is light


def test_a_pair_is_the_photograph_and_its_blur(tmp_path: Path) -> None:
    photo = sample_photos()["chelsea"]
    path = write_image(tmp_path / "a.png", photo)
    degraded, truth = MotionBlur().pair(path)
    np.testing.assert_array_equal(truth, read_image(path))
    assert degraded.shape == truth.shape
    assert degraded.dtype == np.uint8
    assert np.abs(np.diff(degraded.astype(int), axis=1)).mean() < 0.9 * np.abs(
        np.diff(truth.astype(int), axis=1)
    ).mean()  # fmt: skip
    assert MotionBlur().files(path) == (path,)


def test_a_scale_shrinks_the_blurred_picture(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", sample_photos()["chelsea"][:101, :90])
    degraded, truth = MotionBlur(scale=2).pair(path)
    assert (degraded.shape, truth.shape) == ((50, 45, 3), (100, 90, 3))
    np.testing.assert_array_equal(degraded, downscale(MotionBlur().degrade(truth, "a.png"), 2))


def test_tiny_pictures_can_be_blurred() -> None:
    for varying in (False, True):
        blur = MotionBlur(length=100, varying=varying)
        assert blur.degrade(grey(9, 1, 2), "a.png").shape == (1, 2, 3)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(SlsError, match=r"a\.png: cannot be read as a picture"):
        MotionBlur().pair(tmp_path / "a.png")


@given(seed=st.integers(0, 99))
@settings(max_examples=10)
def test_without_shake_the_way_is_an_even_line(seed: int) -> None:
    walk = steadied(camera_walk(np.random.default_rng(seed), axes=2), 0)
    steps = np.diff(walk, axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(0), steps.shape), atol=1e-12)


def test_full_shake_leaves_the_way_as_it_is() -> None:
    walk = camera_walk(np.random.default_rng(0), axes=3)
    np.testing.assert_allclose(steadied(walk, 1), walk)


def test_levels_are_blended_without_the_transfer_function() -> None:
    edge = np.zeros((32, 32, 3), np.uint8)
    edge[:, 16:] = 255
    line = MotionBlur(length=8, varying=False, noise=0, shake=0, blend="levels")
    blurred = line.degrade(edge, "a.png")
    light = replace(line, blend="light").degrade(edge, "a.png")
    mirrored = 255 - blurred[:, ::-1].astype(int)
    assert np.abs(blurred - mirrored).max() <= 2  # black and white count alike
    assert light.mean() > blurred.mean()  # in light, white outshines black
