"""Whether a weight satisfies the 2:4 pattern of Ampere's sparse tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUAD = 4
"""Consecutive input channels of which Ampere's sparse tensor cores take two."""


def is_2_4(weight: NDArray[Any]) -> bool:
    """True if every four consecutive input channels hold at most two nonzeros.

    For each filter and kernel tap; an incomplete last quad counts as padded with zeros.

    Args:
        weight: shape [C_out, C_in per convolution group, *kernel].

    Source: NVIDIA Ampere architecture whitepaper, "fine-grained structured sparsity".
    """
    nonzero = np.moveaxis(weight != 0, 1, -1)
    padding = [(0, 0)] * (nonzero.ndim - 1) + [(0, -nonzero.shape[-1] % QUAD)]
    quads = np.pad(nonzero, padding).reshape(-1, QUAD)
    return bool((quads.sum(axis=1) <= QUAD // 2).all())
