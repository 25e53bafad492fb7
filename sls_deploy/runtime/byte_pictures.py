"""Pictures as bytes, for graphs that take and give those: uint8, NHWC, RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sls_deploy.runtime.runner import Pictures

_WHITE = 255


def to_bytes(pictures: Pictures) -> NDArray[np.uint8]:
    """NCHW float32, 0..1, to NHWC bytes: clipped and rounded to nearest, ties to even."""
    levels = np.round(np.clip(pictures, 0, 1) * _WHITE).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def from_bytes(levels: NDArray[np.uint8]) -> Pictures:
    """NHWC bytes to NCHW float32, 0..1."""
    return levels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(_WHITE)
