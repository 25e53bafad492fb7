"""Between samples of video and red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.video.colour import WEIGHTS, Samples, from_rgb, to_rgb

SAMPLES = st.builds(
    Samples,
    model=st.just("yuv"),
    bits=st.sampled_from([8, 10, 12]),
    across=st.sampled_from([1, 2]),
    down=st.sampled_from([1, 2]),
    full=st.booleans(),
    matrix=st.sampled_from(sorted(WEIGHTS)),
    place=st.sampled_from(["on", "between"]),
)


def planes(values: tuple[int, ...], kind: Any = np.uint8) -> list[Any]:
    return [np.full((4, 6), value, kind) for value in values]


@given(samples=SAMPLES, seed=st.integers(0, 2**31), tall=st.integers(1, 40), wide=st.integers(1, 9))
def test_colours_within_gamut_come_back_sample_for_sample(
    samples: Samples, seed: int, tall: int, wide: int
) -> None:
    random = np.random.default_rng(seed)
    unit = 2 ** (samples.bits - 8)
    kind = np.uint8 if samples.bits == 8 else np.uint16
    shapes = samples.planes(2 * tall, 2 * wide)
    given_planes = [random.integers(112 * unit, 144 * unit, shape).astype(kind) for shape in shapes]
    back = from_rgb(to_rgb(given_planes, samples), samples)
    for before, after in zip(given_planes, back, strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("samples", "code", "colour"),
    [
        (Samples("yuv", 8, matrix=1), (235, 128, 128), (1, 1, 1)),
        (Samples("yuv", 8, matrix=1), (16, 128, 128), (0, 0, 0)),
        (Samples("yuv", 8, full=True, matrix=6), (255, 128, 128), (1, 1, 1)),
        # Red, by the tables of BT.601 and BT.709.
        (Samples("yuv", 8, matrix=6), (81, 90, 240), (1, 0, 0)),
        (Samples("yuv", 8, matrix=1), (63, 102, 240), (1, 0, 0)),
        (Samples("yuv", 10, matrix=1), (250, 409, 960), (1, 0, 0)),
        (Samples("grey", 8), (235,), (1, 1, 1)),
        (Samples("grey", 10, full=True), (1023,), (1, 1, 1)),
        (Samples("rgb", 8), (255, 51, 0), (0, 1, 0.2)),
    ],
)
def test_known_samples_are_known_colours(
    samples: Samples, code: tuple[int, ...], colour: tuple[float, ...]
) -> None:
    kind = np.uint8 if samples.bits == 8 else np.uint16
    pixels = to_rgb(planes(code, kind), samples)
    np.testing.assert_allclose(pixels[:, 0, 0], colour, atol=0.006)
    for value, plane in zip(code, from_rgb(pixels, samples), strict=True):
        assert abs(int(plane[0, 0]) - value) <= 1


def test_what_lies_outside_is_clipped() -> None:
    samples = Samples("yuv", 8, matrix=1)
    assert to_rgb(planes((255, 128, 128)), samples).max() == 1
    wild = np.stack([np.full((2, 2), value, np.float32) for value in (1.5, -0.5, 0.5)])
    tame = np.clip(wild, 0, 1)
    for one, other in zip(from_rgb(wild, samples), from_rgb(tame, samples), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_picture_is_the_same_in_bands_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    samples = Samples("yuv", 8, 2, 2, matrix=1)
    pixels = random.random((3, 37, 15), np.float32)
    tall = from_rgb(pixels, samples)
    again = to_rgb(tall, samples)
    monkeypatch.setattr("sls_deploy.video.colour._BAND", 8)
    for one, other in zip(from_rgb(pixels, samples), tall, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(to_rgb(tall, samples), again, atol=1e-6)
