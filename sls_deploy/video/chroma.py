"""Chroma planes at the resolution of luma, and back.

Chroma lies either on every second luma sample ('on', as H.264 and H.265 have it along rows unless
told otherwise) or in the middle between two ('between', along columns, and both ways in JPEG).
The two functions are built by lifting (Sweldens, 1996): halving what was doubled gives the same
plane back, so that a picture which no network has touched keeps its colours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Place = Literal["on", "between"]


def double(plane: NDArray[np.float32], axis: int, size: int, place: Place) -> NDArray[np.float32]:
    """Chroma samples for every luma sample along one axis.

    Args:
        plane: [height, width], any unit.
        axis: 0 for columns, 1 for rows.
        size: luma samples along that axis; twice the chroma samples, or one fewer.
        place: where chroma lies.
    """
    samples = np.moveaxis(plane, axis, 0)
    shape = list(plane.shape)
    shape[axis] = 2 * len(samples)
    whole = np.empty(shape, np.float32)
    doubled = np.moveaxis(whole, axis, 0)
    if place == "on":
        doubled[0::2] = samples
        doubled[1::2] = _halfway(samples)
    else:
        slope = _half_difference(samples)
        np.subtract(samples, slope, out=doubled[0::2])
        np.add(samples, slope, out=doubled[1::2])
    return whole[:size] if axis == 0 else whole[:, :size]


def halve(plane: NDArray[np.float32], axis: int, place: Place) -> NDArray[np.float32]:
    """Chroma samples for every second luma sample along one axis, an odd end rounded up."""
    samples = np.moveaxis(plane, axis, 0)
    if len(samples) % 2:
        samples = np.concatenate([samples, samples[-1:]])
    first, second = samples[0::2], samples[1::2]
    if place == "on":
        detail = second - _halfway(first)
        before = np.concatenate([detail[:1], detail[:-1]])
        halved = first + np.float32(0.25) * (before + detail)
    else:
        halved = np.float32(0.5) * (first + second)
    return np.moveaxis(halved, 0, axis)


def _around(samples: NDArray[np.float32], reach: int) -> list[NDArray[np.float32]]:
    """The samples `reach` before to `reach` after each sample; ends are repeated."""
    ends = [(reach, reach), *[(0, 0)] * (samples.ndim - 1)]
    padded = np.pad(samples, ends, mode="edge")
    return [padded[k : k + len(samples)] for k in range(2 * reach + 1)]


def _halfway(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What lies half a sample after each sample, by the cubic through four."""
    _, before, here, after, later = _around(samples, 2)
    return np.float32(9 / 16) * (here + after) - np.float32(1 / 16) * (before + later)


def _half_difference(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the difference of the two halves of each sample, by the averages of five."""
    first, before, _, after, last = _around(samples, 2)
    return np.float32(22 / 128) * (after - before) - np.float32(3 / 128) * (last - first)
