"""Chroma at the resolution of luma, and back."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sls_deploy.video.chroma import double, halve

PLACES = st.sampled_from(["on", "between"])
PLANES = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(0, 255, width=32),
)


@given(plane=PLANES, axis=st.sampled_from([0, 1]), place=PLACES)
def test_halving_what_was_doubled_gives_the_same_plane(
    plane: NDArray[np.float32], axis: int, place: Literal["on", "between"]
) -> None:
    doubled = double(plane, axis, 2 * plane.shape[axis], place)
    np.testing.assert_allclose(halve(doubled, axis, place), plane, atol=1e-3)


@given(plane=PLANES, axis=st.sampled_from([0, 1]), place=PLACES)
def test_an_odd_size_takes_one_sample_fewer(
    plane: NDArray[np.float32], axis: int, place: Literal["on", "between"]
) -> None:
    size = 2 * plane.shape[axis] - 1
    doubled = double(plane, axis, size, place)
    assert doubled.shape[axis] == size
    assert halve(doubled, axis, place).shape == plane.shape


@pytest.mark.parametrize(("place", "shift"), [("on", 0.0), ("between", 0.5)])
def test_a_slope_keeps_its_place_among_luma_samples(
    place: Literal["on", "between"], shift: float
) -> None:
    where = 2 * np.arange(16, dtype=np.float32) + shift
    doubled = double(where[None], 1, 32, place)[0]
    np.testing.assert_allclose(doubled[6:-6], np.arange(32)[6:-6], atol=1e-4)


@given(value=st.floats(0, 255, width=32), axis=st.sampled_from([0, 1]), place=PLACES)
def test_an_even_plane_stays_even(value: float, axis: int, place: Literal["on", "between"]) -> None:
    plane = np.full((5, 6), value, np.float32)
    assert np.allclose(double(plane, axis, 2 * plane.shape[axis], place), value, rtol=1e-5)
    assert np.allclose(halve(plane, axis, place), value, rtol=1e-5)
