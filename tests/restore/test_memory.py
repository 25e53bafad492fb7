from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.errors import OutOfMemory, SlsError
from sls_deploy.restore.memory import Shrinking
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch


class Narrow:
    """Doubles pictures as long as they are no more than so many pixels together."""

    name = "narrow"
    note = ""

    def __init__(self, most: int, error: type[Exception] = OutOfMemory) -> None:
        self.most, self.error = most, error
        self.shapes: list[tuple[int, ...]] = []

    def run(self, pictures: Pictures) -> Pictures:
        if pictures.shape[0] * pictures.shape[2] * pictures.shape[3] > self.most:
            raise self.error("no room")
        self.shapes.append(pictures.shape)
        return pictures.repeat(2, axis=2).repeat(2, axis=3)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        raise NotImplementedError

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        return None

    def close(self) -> None:
        pass


def tiles(count: int, side: int) -> Pictures:
    return np.random.default_rng(0).random((count, 3, side, side), dtype=np.float32)


def doubled(pictures: Pictures) -> Pictures:
    return pictures.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("error", [OutOfMemory, MemoryError])
def test_where_memory_runs_out_a_tile_goes_in_smaller_ones(error: type[Exception]) -> None:
    runner, given = Narrow(140**2, error), tiles(1, 512)
    shrinking = Shrinking(runner, TileSizes(512, 4, 4), 2, None)
    np.testing.assert_allclose(shrinking.run(given), doubled(given), atol=3e-7)
    assert shrinking.note == "memory ran out: tiles of 128 pixels in place of 512"
    assert max(max(shape[2:]) for shape in runner.shapes) <= 128


def test_fewer_tiles_at_once_come_before_smaller_ones() -> None:
    runner, given = Narrow(3 * 128**2), tiles(8, 128)
    shrinking = Shrinking(runner, TileSizes(128, 4, 4), 2, None)
    np.testing.assert_array_equal(shrinking.run(given), doubled(given))
    assert {shape[0] for shape in runner.shapes} == {2}
    assert "2 tiles at once in place of 4" in shrinking.note


def test_later_tiles_are_small_from_the_beginning() -> None:
    runner = Narrow(128**2)
    shrinking = Shrinking(runner, TileSizes(256, 4, 4), 2, None)
    shrinking.run(tiles(1, 256))
    small = list(runner.shapes)
    runner.error = AssertionError
    shrinking.run(tiles(1, 256))
    assert runner.shapes == [*small, *small]


def test_no_more_tiles_at_once_than_the_network_takes() -> None:
    runner, given = Narrow(10**9), tiles(5, 64)
    np.testing.assert_array_equal(
        Shrinking(runner, TileSizes(64, 4, 4), 2, 2).run(given), doubled(given)
    )
    assert [shape[0] for shape in runner.shapes] == [2, 2, 1]


def test_when_the_smallest_tile_does_not_fit_it_says_what_to_do() -> None:
    with pytest.raises(OutOfMemory, match=r"with a tile of 100x100.*--tile"):
        Shrinking(Narrow(10), TileSizes(100, 4, 4), 2, None).run(tiles(1, 100))


def test_a_graph_of_one_size_cannot_shrink() -> None:
    sizes = TileSizes(256, 4, 4, least=(256, 256), most=(256, 256))
    with pytest.raises(OutOfMemory, match="256x256"):
        Shrinking(Narrow(10), sizes, 2, None).run(tiles(1, 256))


def test_other_errors_pass() -> None:
    with pytest.raises(SlsError, match="no room") as told:
        Shrinking(Narrow(10, SlsError), TileSizes(256, 4, 4), 2, None).run(tiles(1, 256))
    assert not isinstance(told.value, OutOfMemory)


def test_a_network_that_takes_four_at_once_gets_four() -> None:
    runner, given = Narrow(10**9), tiles(6, 16)
    found = Shrinking(runner, TileSizes(64, 4, 4), 2, 4, fewest=4).run(given)
    np.testing.assert_array_equal(found, doubled(given))
    assert [shape[0] for shape in runner.shapes] == [4, 4]


@pytest.mark.parametrize(
    "sizes",
    [TileSizes(32, 0, 0, multiple=64, grid=64), TileSizes(32, 4, 4, least=(48, 48))],
)
def test_tiles_that_must_be_larger_than_asked_for_are_run_as_they_are(sizes: TileSizes) -> None:
    given = tiles(2, 64)
    np.testing.assert_array_equal(
        Shrinking(Narrow(10**9), sizes, 2, None).run(given), doubled(given)
    )
