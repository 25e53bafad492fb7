"""Between the samples of video and red, green and blue.

Done here and not by swscale, whose 16-bit RGB reaches 65280 and not 65535, which shifts full-range
chroma by half a level, and which takes chroma of 4:2:0 to lie where JPEG has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sls_deploy.video.chroma import Place, double, halve

Model = Literal["yuv", "rgb", "grey"]

WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Share of red and of blue in luma, by the number of the matrix in ITU-T H.273."""

_BAND = 64
"""Rows that are worked on at once."""


@dataclass(frozen=True)
class Samples:
    """How the planes of a video frame stand for colours."""

    model: Model
    """'yuv': luma and two chroma planes; 'rgb': planes G, B, R; 'grey': luma alone."""
    bits: int
    """Bits of a sample, 8 to 16."""
    across: int = 1
    """Luma samples along a row for one chroma sample, 1 or 2."""
    down: int = 1
    """Luma samples along a column for one chroma sample, 1 or 2."""
    full: bool = False
    """Whether samples use all their values, as in JPEG; else black is 16 and white 235 of 255."""
    matrix: int = 1
    """Number of the matrix in ITU-T H.273, a key of WEIGHTS; RGB has none."""
    place: Place = "on"
    """Where chroma lies along rows; along columns it lies between."""

    def planes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Height and width of each plane of a frame."""
        if self.model == "grey":
            return ((height, width),)
        chroma = (-(-height // self.down), -(-width // self.across))
        return ((height, width), chroma, chroma)


def to_rgb(planes: Sequence[NDArray[Any]], samples: Samples) -> NDArray[np.float32]:
    """Colours of a frame's planes.

    Args:
        planes: [height, width] each, unsigned integers.
        samples: what they stand for.

    Returns:
        [3, height, width], red, green and blue, 0..1; colours outside are clipped.
    """
    if samples.model == "rgb":
        green, blue, red = planes
        colours = np.stack([red, green, blue]).astype(np.float32)
        colours /= np.float32(2**samples.bits - 1)
        return colours
    luma, *chroma = planes
    height, width = luma.shape
    pixels = np.empty((3, height, width), np.float32)
    if samples.model == "grey":
        step, black, _ = _levels(samples)
        np.clip((luma.astype(np.float32) - black) / step, 0, 1, out=pixels[0])
        pixels[1:] = pixels[0]
        return pixels
    to_codes, offset = _affine(samples)
    matrix = np.linalg.inv(to_codes).astype(np.float64)
    offset = -matrix @ offset
    rows = [_tall(plane.astype(np.float32), height, samples) for plane in chroma]
    for band in _bands(height):
        codes = np.empty((3, *luma[band].shape), np.float32)
        codes[0] = luma[band]
        for place, plane in enumerate(rows, 1):
            codes[place] = _wide(plane[band], width, samples)
        np.clip(_mixed(matrix, offset, codes), 0, 1, out=pixels[:, band])
    return pixels


def from_rgb(pixels: NDArray[np.float32], samples: Samples) -> list[NDArray[Any]]:
    """Planes of a frame with these colours, rounded to the nearest sample.

    Args:
        pixels: [3, height, width], red, green and blue, 0..1; clipped.
        samples: what the planes are to stand for.

    Returns:
        One array for each plane, uint8 or uint16.
    """
    most = 2**samples.bits - 1
    _, height, width = pixels.shape
    kind = np.uint8 if samples.bits == 8 else np.uint16
    planes = [np.empty(shape, kind) for shape in samples.planes(height, width)]
    for band in _bands(height):
        colours = np.clip(pixels[:, band], 0, 1, dtype=np.float32)
        codes: Sequence[NDArray[np.float32]]
        if samples.model == "rgb":
            codes = colours[[1, 2, 0]] * np.float32(most)
        elif samples.model == "grey":
            step, black, _ = _levels(samples)
            codes = [colours.mean(axis=0) * step + black]
        else:
            luma, *chroma = _mixed(*_affine(samples), colours)
            codes = [luma, *(_shared(plane, samples) for plane in chroma)]
        for plane, code in zip(planes, codes, strict=True):
            top = band.start if len(plane) == height else band.start // samples.down
            np.rint(code, out=code)
            plane[top : top + len(code)] = np.clip(code, 0, most, out=code)
    return planes


def _bands(height: int) -> Iterator[slice]:
    """Rows that a processor's cache holds at once; an even number, but for the last."""
    return (slice(top, min(top + _BAND, height)) for top in range(0, height, _BAND))


def _tall(plane: NDArray[np.float32], height: int, samples: Samples) -> NDArray[np.float32]:
    return double(plane, 0, height, "between") if samples.down == 2 else plane


def _wide(plane: NDArray[np.float32], width: int, samples: Samples) -> NDArray[np.float32]:
    return double(plane, 1, width, samples.place) if samples.across == 2 else plane


def _shared(plane: NDArray[np.float32], samples: Samples) -> NDArray[np.float32]:
    """One chroma sample for those luma samples that share it."""
    if samples.across == 2:
        plane = halve(plane, 1, samples.place)
    return halve(plane, 0, "between") if samples.down == 2 else plane


def _levels(samples: Samples) -> tuple[np.float32, np.float32, np.float32]:
    """Steps from black to white, the sample of black, and steps of chroma from -0.5 to 0.5."""
    unit = 2 ** (samples.bits - 8)
    if samples.full:
        most = np.float32(2**samples.bits - 1)
        return most, np.float32(0), most
    return np.float32(219 * unit), np.float32(16 * unit), np.float32(224 * unit)


def _affine(samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix [3, 3] and offset [3] from red, green and blue on 0..1 to samples."""
    red, blue = WEIGHTS[samples.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    white, black, chroma = _levels(samples)
    middle = 2 ** (samples.bits - 1)
    rows = [
        white * luma,
        chroma * (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)),
        chroma * (np.array([1, 0, 0]) - luma) / (2 * (1 - red)),
    ]
    return np.stack(rows), np.array([black, middle, middle], np.float64)


def _mixed(
    matrix: NDArray[np.float64], offset: NDArray[np.float64], planes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Matrix and offset on three planes."""
    mixed: NDArray[np.float32] = matrix.astype(np.float32) @ planes.reshape(3, -1)
    mixed += offset.astype(np.float32)[:, None]
    return mixed.reshape(planes.shape)
