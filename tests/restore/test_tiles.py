from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from sls_deploy.restore.tiles import Layout, Pixels, TileSizes, batches, join


def picture(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(height * 1000 + width).random(
        (channels, height, width), np.float32
    )


def enlarged(pixels: Pixels, scale: int) -> Pixels:
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def smoothed(pixels: Pixels) -> Pixels:
    """Hangs on input up to three pixels away, with zeros beyond the picture, as a network does."""
    return uniform_filter(pixels.astype(np.float64), (0, 7, 7), mode="constant").astype(np.float32)


SIZES = st.builds(
    TileSizes,
    longest=st.integers(12, 40),
    margin=st.integers(0, 12),
    blend=st.integers(0, 10),
    multiple=st.sampled_from([1, 2, 4]),
    grid=st.sampled_from([1, 3, 4]),
    least=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    step=st.sampled_from([1, 8]),
)


@settings(max_examples=100)
@given(st.integers(1, 90), st.integers(1, 90), SIZES, st.integers(1, 3))
def test_what_changes_no_pixel_gives_the_picture_back(
    height: int, width: int, sizes: TileSizes, scale: int
) -> None:
    layout, given_picture = Layout(height, width, sizes), picture(height, width)
    restored = [enlarged(tile, scale) for tile in layout.cut(given_picture)]
    np.testing.assert_allclose(
        join(layout, restored, scale), enlarged(given_picture, scale), rtol=0, atol=3e-7
    )


@settings(max_examples=40)
@given(st.integers(30, 90), st.integers(30, 90), st.integers(0, 8), st.integers(28, 40))
def test_with_margin_for_all_that_a_pixel_hangs_on_there_is_no_seam(
    height: int, width: int, blend: int, longest: int
) -> None:
    sizes, given_picture = TileSizes(longest, margin=3, blend=blend), picture(height, width)
    layout = Layout(height, width, sizes)
    output = join(layout, [smoothed(tile) for tile in layout.cut(given_picture)], 1)
    np.testing.assert_allclose(output, smoothed(given_picture), rtol=0, atol=1e-6)


def test_with_less_margin_a_fade_hides_the_step_between_tiles() -> None:
    flat = np.zeros((3, 40, 40), np.float32)
    steps = {}
    for blend in (0, 8):
        layout = Layout(40, 40, TileSizes(24, margin=0, blend=blend))
        levels = [np.full_like(tile, number) for number, tile in enumerate(layout.cut(flat))]
        output = join(layout, levels, 1)
        steps[blend] = float(np.abs(np.diff(output, axis=2)).max())
    assert steps[0] == pytest.approx(1)
    assert steps[8] <= 1 / 8 + 1e-6


@settings(max_examples=80)
@given(st.integers(1, 300), st.integers(1, 300), SIZES)
def test_tiles_are_of_one_size_that_the_network_takes(
    height: int, width: int, sizes: TileSizes
) -> None:
    layout = Layout(height, width, sizes)
    tiles = {tile.shape[1:] for tile in layout.cut(picture(height, width, 1))}
    assert tiles == {layout.size}
    for side, least in zip(layout.size, sizes.least, strict=True):
        assert side % sizes.multiple == 0 or side == least
        assert least <= side <= max(sizes.longest, least + sizes.multiple)
    for side, places in zip(layout.size, (layout.rows, layout.columns), strict=True):
        room_for_the_grid = side // 2 >= math.lcm(sizes.grid, sizes.multiple)
        assert not room_for_the_grid or all(cut.start % sizes.grid == 0 for cut in places)


def test_a_picture_of_one_tile_is_not_filled_up_to_the_grid() -> None:
    assert Layout(20, 31, TileSizes(64, 4, 4, multiple=1, grid=6)).size == (20, 31)
    assert Layout(20, 31, TileSizes(64, 4, 4, multiple=2, grid=6)).size == (20, 32)


@pytest.mark.parametrize("longest", [12, 16, 512])
def test_a_network_of_one_size_gets_tiles_of_that_size(longest: int) -> None:
    layout = Layout(50, 9, TileSizes(longest, 2, 2, grid=6, least=(16, 24), most=(16, 24)))
    assert layout.size == (16, 24)
    assert len(layout.columns) == 1
    given_picture = picture(50, 9)
    np.testing.assert_allclose(join(layout, list(layout.cut(given_picture)), 1), given_picture)


def test_a_small_picture_is_one_tile_of_its_own_size() -> None:
    layout = Layout(20, 30, TileSizes(512, 16, 8))
    assert (layout.size, len(layout.tiles)) == ((20, 30), 1)


@given(st.integers(1, 700), st.integers(1, 700))
def test_limits_of_each_side_are_kept(height: int, width: int) -> None:
    sizes = TileSizes(512, 32, 8, multiple=2, grid=6, least=(16, 64), most=(54, 1024), step=32)
    down, across = Layout(height, width, sizes).size
    assert 16 <= down <= 54
    assert 64 <= across <= 512


def test_on_steps_pictures_of_many_sizes_have_few_tile_sizes() -> None:
    sizes = TileSizes(128, 8, 8, step=32, most=(512, 512))
    found = {Layout(height, width, sizes).size for height in range(90, 300, 7)
             for width in range(90, 300, 11)}  # fmt: skip
    assert all(side % 32 == 0 for size in found for side in size)


def test_margins_that_are_too_wide_for_the_tiles_leave_progress() -> None:
    layout = Layout(200, 200, TileSizes(16, margin=100, blend=8))
    assert len(layout.rows) <= 200 // 8 + 1


def test_batches_keep_the_order() -> None:
    layout = Layout(40, 40, TileSizes(16, 0, 0))
    grouped = list(batches(layout, 4))
    assert [tile for group in grouped for tile in group] == layout.tiles
    assert {len(group) for group in grouped[:-1]} == {4}
