from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch
from sls_deploy.runtime.tiling import Tiled


class Doubling:
    """Repeats every pixel, and remembers the shapes that it was given."""

    name = "doubling"
    note = "doubles"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.given: list[Pictures] = []
        self.closed = False

    def run(self, pictures: Pictures) -> Pictures:
        assert pictures.flags.c_contiguous
        self.shapes.append(pictures.shape[2:])
        self.given.append(pictures)
        return pictures.repeat(2, axis=2).repeat(2, axis=3)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        return lambda: float(pictures.shape[2] * pictures.shape[3])

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        return tuple(LayerTime(name, "", "cpu", float(repeats)) for name in "ab")

    def close(self) -> None:
        self.closed = True


def noise(*shape: int) -> Pictures:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def convolutions() -> nn.Module:
    """Enlarges twice; a pixel hangs on input up to three pixels away."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))


def strided() -> nn.Module:
    """Halves twice and enlarges again; sides must be multiples of four."""
    torch.manual_seed(0)
    down = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    up = (nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2))
    return nn.Sequential(*down, *up)


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 24), st.integers(0, 12))
def test_every_pixel_comes_from_its_place(height: int, width: int, tile: int, overlap: int) -> None:
    inner, pictures = Doubling(), noise(1, 3, height, width)
    output = Tiled(inner, tile, overlap, 2).run(pictures)
    np.testing.assert_array_equal(output, pictures.repeat(2, axis=2).repeat(2, axis=3))
    assert len(set(inner.shapes)) == 1
    assert height * width <= tile**2 or max(inner.shapes[0]) <= tile


@settings(max_examples=40)
@given(
    st.integers(1, 70), st.integers(1, 70), st.tuples(st.integers(4, 30), st.integers(4, 30)),
    st.integers(0, 9), st.sampled_from([1, 2, 4, 16]),
)  # fmt: skip
def test_exact_tiles_are_all_of_that_size(
    height: int, width: int, tile: tuple[int, int], overlap: int, multiple: int
) -> None:
    inner, pictures = Doubling(), noise(2, 3, height, width)
    output = Tiled(inner, tile, overlap, 2, multiple=multiple).run(pictures)
    np.testing.assert_array_equal(output, pictures.repeat(2, axis=2).repeat(2, axis=3))
    assert set(inner.shapes) == {tile}


@pytest.mark.parametrize("sides", [(50, 77), (20, 200), (201, 13), (41, 40), (40, 41), (300, 1)])
@pytest.mark.parametrize("tile", [32, 40, (24, 33)])
def test_result_is_that_of_the_whole_picture(
    sides: tuple[int, int], tile: int | tuple[int, int]
) -> None:
    """Half of the overlap covers the receptive field."""
    runner, pictures = TorchRunner(convolutions()), noise(1, 3, *sides)
    whole, tiled = runner.run(pictures), Tiled(runner, tile, 6, 2).run(pictures)
    if isinstance(tile, tuple) and min(sides) < 24:  # it was filled up, which its edge can see
        whole, tiled = whole[:, :, :-6, :-6], tiled[:, :, :-6, :-6]
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_overlap_below_the_receptive_field_shows() -> None:
    runner, pictures = TorchRunner(convolutions()), noise(1, 3, 50, 77)
    differences = np.abs(Tiled(runner, 32, 2, 2).run(pictures) - runner.run(pictures))
    assert differences.max() > 1e-4


@pytest.mark.parametrize("sides", [(64, 64), (61, 99), (30, 131)])
@pytest.mark.parametrize("tile", [32, 40, (36, 28)])
def test_strides_see_the_same_grid_in_every_tile(
    sides: tuple[int, int], tile: int | tuple[int, int]
) -> None:
    runner = Padded(TorchRunner(strided()), 1, 4, 1)
    pictures = noise(1, 3, *sides)
    tiled = Tiled(runner, tile, 16, 1, multiple=4).run(pictures)
    height = 0 if isinstance(tile, int) or sides[0] > tile[0] else -4  # filled up by more there
    np.testing.assert_allclose(
        tiled[:, :, : height or None], runner.run(pictures)[:, :, : height or None], atol=1e-6
    )


def test_picture_of_few_pixels_is_passed_on() -> None:
    inner, pictures = Doubling(), noise(1, 3, 8, 128)
    Tiled(inner, 32, 8, 2).run(pictures)
    assert inner.given[0] is pictures


def test_picture_longer_than_the_runner_takes_is_cut() -> None:
    inner = Doubling()
    Tiled(inner, 32, 8, 2, longest=100).run(noise(1, 3, 8, 128))
    assert set(inner.shapes) == {(8, 32)}


@pytest.mark.parametrize("sides", [(20, 30), (8, 128), (40, 40), (200, 24)])
def test_no_tile_is_longer_than_the_runner_takes(sides: tuple[int, int]) -> None:
    inner, pictures = Doubling(), noise(1, 3, *sides)
    output = Tiled(inner, 32, 8, 2, longest=24).run(pictures)
    np.testing.assert_array_equal(output, pictures.repeat(2, axis=2).repeat(2, axis=3))
    assert max(map(max, inner.shapes)) <= 24


def test_tiles_are_as_few_and_as_small_as_possible() -> None:
    inner = Doubling()
    Tiled(inner, 64, 8, 2).run(noise(1, 3, 66, 120))
    assert inner.shapes == [(37, 64)] * 4


def test_overlap_is_at_most_half_of_a_tile() -> None:
    inner = Doubling()
    Tiled(inner, (8, 8), 100, 2).run(noise(1, 3, 8, 16))
    assert inner.shapes == [(8, 8)] * 3


def test_times_all_tiles() -> None:
    tiled = Tiled(Doubling(), (8, 8), 0, 2)
    assert tiled.stopwatch(noise(1, 3, 16, 16))() == 4 * 64
    expected = tuple(LayerTime(name, "", "cpu", 20.0) for name in "ab")
    assert tiled.profile(noise(1, 3, 16, 16), 5) == expected
    assert tiled.profile(noise(1, 3, 8, 8), 5) != expected


def test_passes_on_what_the_runner_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Doubling()
    monkeypatch.setattr(inner, "profile", lambda pictures, repeats: None)
    assert Tiled(inner, 8, 0, 2).profile(noise(1, 3, 16, 16), 1) is None


def test_refuses_what_is_no_picture_and_closes_the_runner() -> None:
    inner = Doubling()
    tiled = Tiled(inner, 8, 2, 2)
    assert (tiled.name, tiled.note) == ("doubling", "doubles")
    with pytest.raises(SlsError, match=r"doubling: cannot take .*\[1, 4, 4, 4\]"):
        tiled.run(noise(1, 4, 4, 4))
    tiled.close()
    assert inner.closed
