"""Ranking of the weights inside their groups."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sls_deploy.sparsity.filters import Layout
from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.pattern import Pattern

_PLACE_BITS = 5
"""Bits of a key that hold the place in its group; groups have up to 32."""
_UNIT_BITS = 8
"""Bits of a unit."""
_LESSER = 1 << 62
"""Added to the keys that rank behind the two largest of their quad."""


def rank_units(weight: Tensor, pattern: Pattern) -> Tensor:
    """Pruning unit of every weight, from its rank by magnitude in its group.

    In groups of more than four the two largest of every aligned quad come first, ordered by
    magnitude, then the rest: so every N <= M/2 satisfies 2:4. Of equal magnitudes the lower
    channel comes first. Where the channels do not fill the last group it is padded inside, and
    padding ranks behind the weights of its half.

    Args:
        weight: float32 or float64 of shape [C_out, C_in, *kernel]; ranked on the CPU.

    Returns:
        uint8 of the same shape, on the device of `weight`, values 0 to `pattern.units` - 1.
    """
    channels, size = weight.shape[1], pattern.group
    levels = _levels(np.abs(np.moveaxis(weight.detach().cpu().numpy(), 1, -1), order="C"))
    if -channels % size:
        padding = [(0, 0)] * (levels.ndim - 1) + [(0, -channels % size)]
        levels = np.pad(levels, padding, constant_values=-1)
    # A key ends with the place: no two of a group are equal, and they sort faster than indices.
    keys = np.multiply(levels.reshape(-1, size), -(1 << _PLACE_BITS), dtype=np.int64)
    keys += np.arange(size)
    if size > QUAD:
        quads = keys.reshape(-1, QUAD)
        quads += (quads > _second(quads)[:, None]) * _LESSER
    keys.sort(axis=1)
    # Sorting what each place gets by the place is faster than writing it there.
    placed = keys.astype(np.int32)
    placed &= size - 1
    placed <<= _UNIT_BITS
    placed |= pattern.unit_of(torch.arange(size, dtype=torch.int32)).numpy()
    placed.sort(axis=1)
    units = placed.astype(np.uint8).reshape(levels.shape)[..., :channels]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(units, -1, 1))).to(weight.device)


def rank_weights(weight: Tensor, pattern: Pattern, layout: Layout) -> Tensor:
    """`rank_units` of a weight of any layer: uint8 of its shape, on its device."""
    return layout.weight(rank_units(layout.filters(weight.detach()), pattern), weight.shape)


def _levels(magnitudes: NDArray[np.floating]) -> NDArray[np.signedinteger]:
    """Integers of at most 31 bits that order like the magnitudes."""
    if magnitudes.dtype == np.float32:
        # The bits of a non-negative float order like the float.
        bits: NDArray[np.signedinteger] = magnitudes.view(np.int32)
        return bits
    order: NDArray[np.signedinteger] = np.unique(magnitudes, return_inverse=True)[1]
    return order.reshape(magnitudes.shape)


def _second(quads: NDArray[np.int64]) -> NDArray[np.int64]:
    """The second smallest of each row of four."""
    a, b, c, d = quads.T
    least = np.maximum(np.minimum(a, b), np.minimum(c, d))
    second: NDArray[np.int64] = np.minimum(least, np.minimum(np.maximum(a, b), np.maximum(c, d)))
    return second
