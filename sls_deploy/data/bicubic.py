"""Bicubic resizing that equals MATLAB's `imresize`, by which super-resolution is measured.

Antialiased cubic kernel with a = -0.5 (Keys, 1981), borders mirrored, height before width, and
each of the two passes rounded and clipped to uint8. By a whole factor the weights repeat along the
picture, so a pass adds up shifted and weighted rows, strip by strip so that they stay in the
processor's cache. (A BLAS product is no faster, and its threads make it tens of times slower on
a busy machine.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""Height x width x channels, 0..255."""

_STRIP = 16
"""Rows of the smaller picture in a strip; 8 to 24 are about equally fast."""


def downscale(image: Picture, scale: int) -> Picture:
    """Shrink a picture as `imresize(image, 1 / scale)` does.

    Args:
        image: uint8 HWC.
        scale: whole factor, 1 or more; a size that it does not divide is rounded up.
    """
    return _both_passes(image, scale, shrink=True)


def upscale(image: Picture, scale: int) -> Picture:
    """Enlarge a picture as `imresize(image, scale)` does.

    Args:
        image: uint8 HWC.
        scale: whole factor, 1 or more.
    """
    return _both_passes(image, scale, shrink=False)


def enlarge(pictures: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Enlarge as `upscale` does, but for rounding and clipping: there is none.

    Args:
        pictures: NCHW float32.
        scale: whole factor, 1 or more.
    """
    phases = _phases(scale, shrink=False)
    first = min(phase.first for phase in phases)
    last = max(phase.first + len(phase.weights) for phase in phases)
    for axis in (2, 3):
        length = pictures.shape[axis]
        widths = [(0, 0)] * 4
        widths[axis] = (-first, last - 1)
        rows = np.moveaxis(np.pad(pictures, widths, mode="symmetric"), axis, 0)
        tall = np.empty((length * scale, *rows.shape[1:]), np.float32)
        for number, phase in enumerate(phases):
            taps = enumerate(phase.weights, phase.first - first)
            tall[number::scale] = sum(rows[tap : tap + length] * weight for tap, weight in taps)
        pictures = np.moveaxis(tall, 0, axis)
    return np.ascontiguousarray(pictures)


def crop_to_multiple(image: Picture, scale: int) -> Picture:
    """Cut right and bottom so that `scale` divides height and width; a view."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def _both_passes(image: Picture, scale: int, *, shrink: bool) -> Picture:
    tall = _resize_height(image, scale, shrink=shrink)
    return np.ascontiguousarray(
        _resize_height(tall.swapaxes(0, 1), scale, shrink=shrink).swapaxes(0, 1)
    )


def _resize_height(image: Picture, scale: int, *, shrink: bool) -> Picture:
    length, *rest = image.shape
    phases, step = _phases(scale, shrink=shrink), scale if shrink else 1
    first = min(phase.first for phase in phases)
    last = max(phase.first + len(phase.weights) for phase in phases)
    resized = np.empty((-(-length // scale) if shrink else length * scale, *rest), np.uint8)
    # Row `r` of the result is row `r // len(phases)` of phase `r % len(phases)`.
    rows = resized.reshape(-1, len(phases), int(np.prod(rest)))
    total, term = (np.empty((_STRIP, rows.shape[2])) for _ in range(2))
    for top in range(0, len(rows), _STRIP):
        target = rows[top : top + _STRIP]
        count = len(target)
        place = np.arange(top * step + first, (top + count - 1) * step + last) % (2 * length)
        # Mirrored with the edge row repeated, as often as a tiny picture needs.
        inputs = image[np.minimum(place, 2 * length - 1 - place)]
        values = inputs.reshape(len(place), -1).astype(np.float64)
        for index, phase in enumerate(phases):
            # Half is rounded up; the margin keeps that from hanging on the order of summing.
            total.fill(0.5 + 1e-9)
            for tap, weight in enumerate(phase.weights, phase.first - first):
                used = values[tap : tap + (count - 1) * step + 1 : step]
                total[:count] += np.multiply(used, weight, out=term[:count])
            target[:, index] = np.clip(total, 0, 255, out=total)[:count]
    return resized


@dataclass(frozen=True)
class _Phase:
    """Weights of the rows that lie alike among the rows that they are made from."""

    first: int
    """Row that the first weight is for, for the first such row of the result."""
    weights: tuple[float, ...]
    """Weights of consecutive rows, with sum 1."""


@lru_cache(maxsize=32)
def _phases(scale: int, *, shrink: bool) -> tuple[_Phase, ...]:
    """Phases of a factor: one to shrink, `scale` to enlarge."""
    ratio, width = (float(scale), scale) if shrink else (1 / scale, 1)
    phases = []
    for row in range(1 if shrink else scale):
        centre = (row + 0.5) * ratio - 0.5
        rows = np.arange(np.floor(centre - 2 * width), np.ceil(centre + 2 * width) + 1)
        weights = _cubic((centre - rows) / width)
        used = np.flatnonzero(weights)
        weights = weights[used[0] : used[-1] + 1] / weights.sum()
        phases.append(_Phase(int(rows[used[0]]), tuple(weights.tolist())))
    return tuple(phases)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
