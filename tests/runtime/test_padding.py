from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.errors import SlsError
from sls_deploy.runtime.padding import Padded, reflect
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch
from sls_deploy.sizes import padded_side


class Doubling:
    """Repeats every pixel, and remembers what it was given."""

    name = "doubling"
    note = "doubles"

    def __init__(self) -> None:
        self.given: list[Pictures] = []
        self.closed = False

    def run(self, pictures: Pictures) -> Pictures:
        self.given.append(pictures)
        return pictures[:, :3].repeat(2, axis=2).repeat(2, axis=3)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        self.given.append(pictures)
        return lambda: 3.0

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        self.given.append(pictures)
        return (LayerTime("repeat", "", "cpu", float(repeats)),)

    def close(self) -> None:
        self.closed = True


def noise(*shape: int) -> Pictures:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("side", "least", "multiple", "wanted"),
    [(8, 1, 8, 8), (9, 1, 8, 16), (3, 20, 1, 20), (3, 20, 8, 24), (21, 20, 1, 21)],
)
def test_takes_the_smallest_side_there_is(
    side: int, least: int, multiple: int, wanted: int
) -> None:
    assert padded_side(side, least, multiple) == wanted


@pytest.mark.parametrize("shape", [(2, 3, 13, 22), (1, 9, 16, 5), (1, 3, 1, 1), (1, 3, 2, 40)])
def test_nobody_sees_the_padding(shape: tuple[int, ...]) -> None:
    inner = Doubling()
    pictures = noise(*shape)
    output = Padded(inner, 16, 8, 2).run(pictures)
    assert np.array_equal(output, pictures[:, :3].repeat(2, axis=2).repeat(2, axis=3))
    height, width = inner.given[0].shape[2:]
    assert min(height, width) >= 16
    assert height % 8 == width % 8 == 0
    assert inner.given[0].flags.c_contiguous


def test_passes_on_what_fits() -> None:
    inner, pictures = Doubling(), noise(1, 3, 8, 16)
    Padded(inner, 8, 8, 2).run(pictures)
    assert inner.given[0] is pictures


def test_reflects_without_repeating_the_edge() -> None:
    row = np.arange(3, dtype=np.float32).reshape(1, 1, 1, 3)
    assert reflect(row, 1, 8).ravel().tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert reflect(row, 2, 3)[0, 0, 1].tolist() == [0, 1, 2]


def test_refuses_what_is_no_picture_and_closes_the_runner() -> None:
    inner = Doubling()
    runner = Padded(inner, 1, 4, 2)
    with pytest.raises(SlsError, match=r"doubling: cannot take .*\[1, 4, 4, 4\]"):
        runner.run(noise(1, 4, 4, 4))
    runner.close()
    assert inner.closed


def test_times_the_filled_up_pictures() -> None:
    runner = Doubling()
    padded = Padded(runner, least_side=8, multiple=4, scale=2)
    pictures = noise(1, 3, 5, 10)
    assert padded.stopwatch(pictures)() == 3.0
    assert padded.profile(pictures, 7) == (LayerTime("repeat", "", "cpu", 7.0),)
    assert padded.note == "doubles"
    for given in runner.given:
        np.testing.assert_array_equal(given, reflect(pictures, 8, 12))
