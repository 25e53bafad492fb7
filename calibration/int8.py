"""From floats to int8 and back: scales, integers, and the bias that makes up for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.calibration.clipping import LEVELS

_TINIEST = float(np.finfo(np.float16).smallest_subnormal)


def half_scale(largest: NDArray[Any] | float) -> NDArray[np.float16]:
    """The step with which 127 levels reach a magnitude, in fp16.

    It is rounded up, so that the magnitude is reached; fp16 is what engines compute in between
    int8 layers. Where the magnitude is zero the step is 1.

    Args:
        largest: magnitudes of any shape, finite and not negative.

    Returns:
        Steps above zero, of the same shape.
    """
    largest = np.asarray(largest, np.float64)
    step = np.where(largest > 0, np.maximum(largest / LEVELS, _TINIEST), 1.0)
    rounded = step.astype(np.float16)
    up = np.nextafter(rounded, np.float16(np.inf))
    result: NDArray[np.float16] = np.where(rounded.astype(np.float64) < step, up, rounded)
    return result


def quantize_weight(
    weight: NDArray[Any], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Quantise a weight symmetrically with a step for each output channel.

    Zero becomes the integer zero, so 2:4 holds on the integers where it held on the floats.

    Args:
        weight: of any shape.
        axis: the axis of the output channels, not negative.

    Returns:
        Integers in -127..127 of the same shape, and the step of each output channel.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = half_scale(np.abs(weight).max(axis=others, initial=0.0))
    steps = _along(scales, axis, weight.ndim)
    integers = np.clip(np.rint(weight.astype(np.float64) / steps), -LEVELS, LEVELS)
    return integers.astype(np.int8), scales


def dequantize_weight(
    integers: NDArray[np.int8], scales: NDArray[np.float16], axis: int
) -> NDArray[np.float64]:
    """The floats that integers stand for.

    Args:
        integers: of any shape.
        scales: the step of each output channel.
        axis: the axis of the output channels, not negative.
    """
    return integers * _along(scales, axis, integers.ndim)


def bias_shift(
    error: NDArray[Any], means: NDArray[Any], axis: int, channels: int, groups: int
) -> NDArray[np.float64]:
    """What rounding the weights takes from the mean output of every filter.

    Adding it to the bias restores the mean, exactly where the whole kernel lies in the picture
    (Nagel et al., Data-free quantization, ICCV 2019, with measured means of the inputs).

    Args:
        error: the weight less what its integers stand for.
        means: mean of every input channel on calibration pictures.
        axis: axis of the weight's output channels, 0 or 1; the other one holds the inputs.
        channels: output channels in all.
        groups: convolution groups.

    Returns:
        [channels]
    """
    taps = error.reshape(*error.shape[:2], -1).sum(-1, dtype=np.float64)
    if axis:  # [C_in, C_out / groups]
        grouped = taps.reshape(groups, -1, taps.shape[1]).swapaxes(1, 2)
    else:  # [C_out, C_in / groups]
        grouped = taps.reshape(groups, -1, taps.shape[1])
    shift: NDArray[np.float64] = grouped @ np.asarray(means).reshape(groups, -1, 1)
    return shift.reshape(channels)


def _along(scales: NDArray[np.float16], axis: int, dimensions: int) -> NDArray[np.float64]:
    shape = [1] * dimensions
    shape[axis] = -1
    return scales.astype(np.float64).reshape(shape)
