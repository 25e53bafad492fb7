"""SSIM as MATLAB computes it, of several planes at once, exact and fast.

Wang et al., 2004: Gaussian window of 11 with sigma 1.5, K1 0.01, K2 0.03, range 255, at all places
where the whole window fits; the mean over places is the figure. BasicSR and skimage's
`structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)` agree.

With y the truth, x a picture, d = x - y, and E and var under the window, one place has

    (1 - E[d]^2 / (E[x]^2 + E[y]^2 + C1)) * (1 - var d / (var x + var y + C2)).

That is the usual product of two quotients, but both fractions are small where pictures are alike,
so that float32 is enough for them: the usual sums would lose the variance of flat parts in it. What
hangs on the truth alone is computed once, in float64, for all pictures compared with it. The figure
is within 1e-6 of the formula in float64, on photographs within 1e-7; one place alone within 5e-6.

The window is separable, and each of its passes is a product with a small banded matrix: twice as
fast as to add up shifted planes in NumPy, five times as fast as SciPy's `correlate1d`. PyTorch's
convolutions are no faster on separate planes, and their threads would disturb the inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

WINDOW = 11
"""Side of the Gaussian window, in pixels."""

_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MARGIN = WINDOW - 1
_MIDDLE = 128.0
"""Taken off the truth before squaring: variances stay, and their rounding shrinks."""
_FAR = 4.0
"""Mean of E[d^2] / (var x + var y + C2) beyond which a tile is compared in float64: plain parts
that are far off lose their variance in float32. The error was up to 1.7e-7 times that mean."""
_ROWS, _COLUMNS = 8, 16
"""Places down or across that one product makes: few, since most of a banded matrix is zero."""
_LINES = 384
"""Rows in a product across. OpenBLAS starts threads beyond 2^18 multiplications; this is below."""
_TILE = (64, 512)
"""Places in a tile, multiples of those: all of its maps stay in the processor's cache."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture whose maps are computed together."""

    rows: slice
    """Pixels that its places need, from top to bottom."""
    columns: slice
    """From left to right."""
    places: tuple[int, int]
    """Places in it, down and across; tiles share none."""
    own: tuple[int, int]
    """Pixels that belong to it alone, from its corner; all tiles together own every pixel."""


def tiles(height: int, width: int) -> Iterator[Tile]:
    """Cut a picture of at least the window's size into tiles.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
    """
    for top, down, own_down in _spans(height, _TILE[0]):
        for left, across, own_across in _spans(width, _TILE[1]):
            yield Tile(
                slice(top, top + down + _MARGIN),
                slice(left, left + across + _MARGIN),
                (down, across),
                (own_down, own_across),
            )


class Similarity:
    """Compares pictures with a truth, tile by tile.

    All tiles are written into the same memory: fresh memory for each would take as long as the
    sums. So what is returned holds until the next call.
    """

    def __init__(self) -> None:
        self._memory = _Memory()
        self._truth: dict[type, _Truth] = {}
        self._room: NDArray[np.float32] = np.empty((3, 0, 0, 0), np.float32)
        self._sides: tuple[int, ...] = ()

    def set_truth(self, truth: NDArray[np.float64]) -> NDArray[np.float32]:
        """Take a tile of the truth.

        Args:
            truth: its planes, 0..255, shape (planes, height, width).

        Returns:
            Room of that shape, where a picture less the truth is to be written before `compare`.
        """
        sources = self._sources("truth", 2, truth.shape, np.float64)
        np.subtract(truth, _MIDDLE, out=sources[0, :, : truth.shape[1], : truth.shape[2]])
        np.multiply(sources[0], sources[0], out=sources[1])
        (mean, variance), squared = _blurred(sources, self._memory, "truth")
        variance -= np.multiply(mean, mean, out=squared)
        variance *= 2
        variance += _C2
        np.add(mean, _MIDDLE, out=squared)
        squared *= squared
        squared *= 2
        squared += _C1
        mean *= 2
        sources[0] *= 2
        maps = {"twice": sources[0], "mean": mean, "luminance": squared, "contrast": variance}
        self._truth[np.float64] = _Truth(**maps)
        single = {}
        for name, values in maps.items():
            single[name] = self._memory.array(f"truth's {name}", values.shape, np.float32)
            single[name][...] = values
        self._truth[np.float32] = _Truth(**single)
        self._room = self._sources("pictures", 3, truth.shape, np.float32)
        self._sides = truth.shape[1:]
        return self._room[0, :, : truth.shape[1], : truth.shape[2]]

    def compare(self) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """SSIM at every place of the tile, and the squared difference of every pixel.

        Returns:
            Shapes (planes, height - 10, width - 10) and (planes, height, width).
        """
        sources = self._room
        places = self._compared(sources)
        if places is None:
            sources = self._memory.array("far pictures", sources.shape, np.float64)
            sources[0] = self._room[0]
            places = self._compared(sources)
            assert places is not None  # noqa: S101 - float64 is enough for all
        height, width = self._sides
        places = places[:, : height - _MARGIN, : width - _MARGIN]
        return places, sources[1, :, :height, :width]

    def _compared(self, sources: NDArray[Any]) -> NDArray[Any] | None:
        """SSIM at every place; None where float32 is not enough.

        Args:
            sources: the difference, and room for two more maps.
        """
        truth = self._truth[sources.dtype.type]
        np.multiply(sources[0], sources[0], out=sources[1])
        np.add(truth.twice, sources[0], out=sources[2])
        sources[2] *= sources[0]  # x^2 - y^2, both less the middle
        (mean, variance, growth), squared = _blurred(sources, self._memory, "compare")

        # In place from here on: every array more leaves the cache sooner.
        moved = np.add(truth.mean, mean, out=self._memory.array("moved", mean.shape, mean.dtype))
        moved *= mean  # E[x]^2 - E[y]^2, both less the middle
        growth -= moved  # var x - var y
        growth += truth.contrast
        if sources.dtype == np.float32 and self._far(sources[1], variance, growth, squared):
            return None
        variance -= np.multiply(mean, mean, out=squared)  # E[d^2] becomes var d
        mean *= 2 * _MIDDLE
        moved += mean
        moved += truth.luminance
        squared /= moved
        variance /= growth
        np.subtract(1, squared, out=squared)
        np.subtract(1, variance, out=variance)
        squared *= variance
        return squared

    def _far(
        self,
        squares: NDArray[Any],
        mean_squares: NDArray[Any],
        growth: NDArray[Any],
        room: NDArray[Any],
    ) -> bool:
        """Whether the picture is so far from the truth that float32 is not enough."""
        down, across = (side - _MARGIN for side in self._sides)
        # Most tiles keep below even with no variance at all, and this is the cheaper question.
        if squares.sum((1, 2)).max() / (down * across) <= _FAR * _C2:
            return False
        quotient = np.divide(mean_squares, growth, out=room)[:, :down, :across]
        return bool(quotient.mean((1, 2)).max() > _FAR)

    def _sources(self, name: str, count: int, tile: tuple[int, ...], kind: type) -> NDArray[Any]:
        """Room for maps of a tile, each with zeros beside the tile in the first of them.

        They let whole products cover all places.
        """
        planes, height, width = tile
        tall, wide = (
            -(-(side - _MARGIN) // step) * step + _MARGIN
            for side, step in ((height, _ROWS), (width, _COLUMNS))
        )
        sources = self._memory.array(name, (count, planes, tall, wide), kind)
        sources[0, :, height:] = 0
        sources[0, :, :height, width:] = 0
        return sources


@dataclass(frozen=True)
class _Truth:
    """What hangs on the truth alone; y is the truth, c the middle."""

    twice: NDArray[Any]
    """2 (y - c)."""
    mean: NDArray[Any]
    """2 E[y - c]."""
    luminance: NDArray[Any]
    """2 E[y]^2 + C1."""
    contrast: NDArray[Any]
    """2 var y + C2."""


class _Memory:
    """Arrays that keep their memory from one use to the next."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """An array with any values; the one that had the name is no longer to be used."""
        size = prod(shape) * np.dtype(kind).itemsize
        if name not in self._held or len(self._held[name]) < size:
            self._held[name] = np.empty(size, np.uint8)
        array: NDArray[Any] = self._held[name][:size].view(kind).reshape(shape)
        return array


def _spans(length: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Start, places and own pixels of the tiles along one side."""
    count = length - _MARGIN
    for start in range(0, count, step):
        places = min(step, count - start)
        yield start, places, places if start + places < count else places + _MARGIN


def _blurred(maps: NDArray[Any], memory: _Memory, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Maps under the window, and room for one more.

    Args:
        maps: shape (maps, planes, height, width), the sides as in `Similarity._sources`.
        memory: where they are written.
        name: what that is called there.

    Returns:
        Shapes (maps, planes, height - 10, width - 10) and (planes, height - 10, width - 10).
    """
    count, planes, height, width = maps.shape
    tall, wide = height - _MARGIN, width - _MARGIN
    kind = maps.dtype.type
    item, row, plane = maps.itemsize, width * maps.itemsize, height * width * maps.itemsize
    blocks = as_strided(
        maps,
        (count * planes, tall // _ROWS, _ROWS + _MARGIN, width),
        (plane, _ROWS * row, row, item),
    )
    lines = memory.array("lines", (count * planes * tall, width), kind)
    np.matmul(_band(_ROWS, maps.dtype), blocks, out=lines.reshape(*blocks.shape[:2], _ROWS, width))

    blurred = memory.array(f"{name}, blurred", (count + 1, planes, tall, wide), kind)
    flat, matrix = blurred[:count].reshape(-1, wide), _band(_COLUMNS, maps.dtype).T
    for top in range(0, len(lines), _LINES):
        some, target = lines[top : top + _LINES], flat[top : top + _LINES]
        shape, step = (wide // _COLUMNS, len(some)), _COLUMNS * item
        np.matmul(
            as_strided(some, (*shape, _COLUMNS + _MARGIN), (step, *some.strides)),
            matrix,
            out=as_strided(target, (*shape, _COLUMNS), (step, *target.strides)),
        )
    return blurred[:count], blurred[count]


@cache
def _band(places: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """The matrix that takes values to places under the window, shape (places, places + 10)."""
    distance = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * _SIGMA**2))
    band = np.zeros((places, places + _MARGIN))
    for place in range(places):
        band[place, place : place + WINDOW] = weights / weights.sum()
    return band.astype(kind)
