"""PSNR and SSIM as papers report them, of luma and of RGB, and how far two outputs lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.validate.figures import Fidelity, Quality
from sls_deploy.validate.ssim import WINDOW, Similarity, tiles

_HIGHEST = 100.0
"""PSNR in dB at which a picture counts as exact, so that one exact picture leaves a mean."""
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of R, G and B in luma."""
_PLANES = 4
"""Luma and three colours."""
_PERCENTILE = 99.9
_GROUP = 64
"""Values of which the largest stands for all, in a search for the largest."""


def to_uint8(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Clip to 0..1 and round to 0..255, ties to even, any shape; float32 is multiplied as float32.

    Raises:
        SlsError: a value is infinite or not a number.
    """
    if not np.isfinite(image).all():
        fix = "The network overflowed: use fp32."
        raise SlsError("the picture has values that are not finite", "", fix)
    values: NDArray[Any] = np.clip(image, 0, 1, dtype=np.result_type(image, np.float32))
    values *= 255
    levels: NDArray[np.uint8] = np.rint(values, out=values).astype(np.uint8)
    return levels


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Y of ITU-R BT.601 in 16..235, not rounded, from uint8 HWC RGB; shape HW."""
    y: NDArray[np.float64] = image.astype(np.float64) @ _LUMA + 16
    return y


def psnr(a: NDArray[Any], b: NDArray[Any], peak: float) -> float:
    """Peak signal-to-noise ratio over all values, in dB; infinite when they are equal.

    Args:
        a: values of any shape.
        b: values of the same shape.
        peak: the largest value there can be, such as 1 or 255.

    Raises:
        SlsError: the shapes differ.
    """
    _check_shapes(a, b)
    return _decibels(float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)), peak)


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int) -> float:
    """PSNR of luma in dB.

    Args:
        a: picture, uint8 HWC RGB.
        b: picture of the same size.
        shave: pixels cut from every side first; papers take the scale.

    Raises:
        SlsError: the sizes differ, or nothing is left after shaving.
    """
    return psnr(*_shaved_luma(a, b, shave, least=1), peak=255)


def psnr_rgb(a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int) -> float:
    """PSNR over all three colours in dB, as papers on deblurring report it; see `psnr_y`.

    Raises:
        SlsError: the sizes differ, or nothing is left after shaving.
    """
    inner = _inner(a, b, shave, least=1)
    return psnr(a[inner], b[inner], peak=255)


def ssim_y(a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int) -> float:
    """Structural similarity of luma, at most 1; see `ssim.py`.

    Args:
        a: picture, uint8 HWC RGB.
        b: picture of the same size.
        shave: pixels cut from every side first; papers take the scale.

    Raises:
        SlsError: the sizes differ, or less than the window is left after shaving.
    """
    return qualities(b, [a], shave)[0].ssim_y


def ssim_rgb(a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int) -> float:
    """Mean of the structural similarities of the three colours, as BasicSR; see `ssim_y`.

    Raises:
        SlsError: the sizes differ, or less than the window is left after shaving.
    """
    return qualities(b, [a], shave)[0].ssim_rgb


def qualities(
    truth: NDArray[np.uint8],
    pictures: Sequence[NDArray[np.uint8]],
    shave: int,
    similarity: Similarity | None = None,
) -> list[Quality]:
    """PSNR and SSIM of several pictures against one truth, in one go; LPIPS is left out.

    Equal to `psnr_y`, `psnr_rgb`, `ssim_y` and `ssim_rgb`, but for exact pictures, which count as
    100 dB, and many times as fast. Pictures that are views of CHW arrays are the fastest.

    Args:
        truth: uint8 HWC RGB.
        pictures: what is compared with it, of the same size.
        shave: pixels cut from every side first; papers take the scale.
        similarity: that of an earlier call, whose memory is used again; no other thread may use it.

    Raises:
        SlsError: the sizes differ, or less than SSIM's window is left after shaving.
    """
    inner = [_inner(picture, truth, shave, least=WINDOW) for picture in pictures]
    shaved = [picture[part] for picture, part in zip(pictures, inner, strict=True)]
    truth = truth[inner[0]]
    height, width = truth.shape[:2]
    errors, sums = np.zeros((2, len(shaved), _PLANES))
    similarity = similarity or Similarity()
    for tile in tiles(height, width):
        part = truth[tile.rows, tile.columns]
        planes = _planes(part)
        room, colours = similarity.set_truth(planes), planes[1:].astype(np.float32)
        for index, picture in enumerate(shaved):
            levels = picture[tile.rows, tile.columns].transpose(2, 0, 1)
            np.subtract(levels, colours, out=room[1:])
            np.einsum("c,chw->hw", _LUMA.astype(np.float32), room[1:], out=room[0])
            places, squares = similarity.compare()
            errors[index] += _sums(squares[:, : tile.own[0], : tile.own[1]])
            sums[index] += _sums(places)
    errors /= height * width
    sums /= (height - WINDOW + 1) * (width - WINDOW + 1)
    return [
        Quality(
            psnr_y=min(_decibels(error[0], 255), _HIGHEST),
            psnr_rgb=min(_decibels(error[1:].mean(), 255), _HIGHEST),
            ssim_y=float(total[0]),
            ssim_rgb=float(total[1:].mean()),
            lpips=None,
        )
        for error, total in zip(errors, sums, strict=True)
    ]


def fidelity(output: NDArray[np.float32], expected: NDArray[np.float32]) -> Fidelity:
    """How far one output lies from another, before rounding, over all values.

    Args:
        output: values on 0..1, any shape.
        expected: values of the same shape.

    Raises:
        SlsError: the shapes differ.
    """
    _check_shapes(output, expected)
    differences = np.subtract(output, expected).ravel()
    np.abs(differences, out=differences)
    largest = float(differences.max())
    if largest == 0:
        return Fidelity(None, 0.0, 0.0)
    percentile = _upper_percentile(differences, _PERCENTILE)
    differences /= np.float32(largest)  # squares of what is left neither vanish nor overflow
    differences *= differences
    mean = float(differences.mean()) * largest**2
    return Fidelity(_decibels(mean, 1), largest, percentile)


def _upper_percentile(values: NDArray[np.float32], percent: float) -> float:
    """`np.percentile`, many times as fast: it sorts nothing but the largest values.

    Args:
        values: one axis, none below 0.
        percent: near 100.
    """
    place = (values.size - 1) * percent / 100
    wanted = values.size - int(place)
    groups = values.size // _GROUP
    if wanted <= groups:
        # As many groups have a maximum of this or more, so as many values are: those of interest.
        maxima = values[: groups * _GROUP].reshape(_GROUP, groups).max(0)
        values = values[values >= np.partition(maxima, groups - wanted)[groups - wanted]]
    first = values.size - wanted
    around = np.partition(values, [first, min(first + 1, values.size - 1)])[first : first + 2]
    low, high = float(around[0]), float(around[-1])
    return low + (high - low) * (place - int(place))


def _planes(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Luma and the three colours, 0..255."""
    planes = np.empty((_PLANES, *picture.shape[:2]))
    planes[1:] = picture.transpose(2, 0, 1)
    np.einsum("c,chw->hw", _LUMA, planes[1:], out=planes[0])
    planes[0] += 16
    return planes


def _sums(planes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sum of each plane; NumPy adds rows pairwise, which loses nothing that counts in float32."""
    sums: NDArray[np.float64] = planes.sum(2).sum(1, dtype=np.float64)
    return sums


def _decibels(mean_square: float, peak: float) -> float:
    return float(10 * np.log10(peak**2 / mean_square)) if mean_square else float("inf")


def _shaved_luma(
    a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inner = _inner(a, b, shave, least)
    return luma(a[inner]), luma(b[inner])


def _inner(
    a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int, least: int
) -> tuple[slice, slice]:
    _check_shapes(a, b)
    height, width = a.shape[:2]
    if min(height, width) - 2 * shave < least:
        raise SlsError(
            f"a picture of {width}x{height} shaved by {shave} is too small to measure",
            "",
            f"Both sides need {least + 2 * shave} pixels or more.",
        )
    return slice(shave, height - shave), slice(shave, width - shave)


def _check_shapes(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise SlsError(f"pictures of different shapes, {a.shape} and {b.shape}, to compare")
