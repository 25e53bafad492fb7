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


def why_not_eligible(channels: int, groups: int, *, legal: bool, transposed: bool = False) -> str:
    """Why Ampere's sparse tensor cores cannot take a layer; empty if they can.

    Being eligible never says that a sparse kernel will run: TensorRT times both and chooses.

    Args:
        channels: input channels of one convolution group.
        groups: convolution groups; TensorRT considers no group convolution.
        legal: whether the weight satisfies 2:4.
        transposed: whether it is a transposed convolution, for which there are no such kernels.
    """
    reasons = (
        "it is a transposed convolution" if transposed else "",
        f"it has {groups} convolution groups" if groups > 1 else "",
        f"its {channels} input channels are not a multiple of {QUAD}" if channels % QUAD else "",
        "" if legal else "its weights are not 2:4",
    )
    return ", ".join(filter(None, reasons))
