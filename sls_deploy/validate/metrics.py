"""PSNR and SSIM as papers report them: of super-resolution on shaved luma, of deblurring on RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError

_WINDOW = 11
"""Side of SSIM's Gaussian window, in pixels."""


def to_uint8(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Clip to 0..1 and round to 0..255, any shape.

    Raises:
        SlsError: a value is infinite or not a number.
    """
    if not np.isfinite(image).all():
        fix = "The network overflowed: use fp32."
        raise SlsError("the picture has values that are not finite", "", fix)
    return np.rint(np.clip(image.astype(np.float64), 0, 1) * 255).astype(np.uint8)


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Y of ITU-R BT.601 in 16..235, not rounded, from uint8 HWC RGB; shape HW."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    y: NDArray[np.float64] = image.astype(np.float64) @ weights + 16
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
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(peak**2 / error)) if error else float("inf")


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
    """Structural similarity of luma, at most 1 (Wang et al., 2004).

    As MATLAB computes it: Gaussian window of 11 with sigma 1.5, K1 0.01, K2 0.03, range 255,
    the mean over all places where the whole window fits.

    Args:
        a: picture, uint8 HWC RGB.
        b: picture of the same size.
        shave: pixels cut from every side first; papers take the scale.

    Raises:
        SlsError: the sizes differ, or less than the window is left after shaving.
    """
    from skimage.metrics import structural_similarity

    left, right = _shaved_luma(a, b, shave, least=_WINDOW)
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            left,
            right,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


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
