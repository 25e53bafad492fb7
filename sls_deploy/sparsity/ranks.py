"""Ranking of the weights inside their groups."""

from __future__ import annotations

import torch
from torch import Tensor

from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.pattern import Pattern


def rank_units(weight: Tensor, pattern: Pattern) -> Tensor:
    """Pruning unit of every weight, from its rank by magnitude in its group.

    In groups of more than four the two largest of every aligned quad come first, ordered by
    magnitude, then the rest: so every N <= M/2 satisfies 2:4. Of equal magnitudes the lower
    channel comes first. Where the channels do not fill the last group it is padded inside, and
    padding ranks behind the weights of its half.

    Args:
        weight: float32 or float64 of shape [C_out, C_in, *kernel].

    Returns:
        uint8 of the same shape, values 0 to `pattern.units` - 1.
    """
    channels, size = weight.shape[1], pattern.group
    bits = weight.detach().abs().movedim(1, -1).contiguous()
    # The bits of a non-negative float order like the float; 0 is left for the padding.
    keys = bits.view(torch.int32 if bits.dtype == torch.float32 else torch.int64) + 1
    keys = torch.nn.functional.pad(keys, (0, -channels % size))
    groups = keys.view(*keys.shape[:-1], -1, size)
    if size > QUAD:
        quads = groups.view(*groups.shape[:-1], -1, QUAD)
        lesser = _ranks(quads) >= QUAD // 2
        groups = (quads + lesser * torch.iinfo(keys.dtype).min).flatten(-2)
    units = pattern.unit_of(_ranks(groups))
    return units.flatten(-2)[..., :channels].movedim(-1, 1).contiguous()


def _ranks(keys: Tensor) -> Tensor:
    """Rank of each key along the last dimension, 0 for the largest; ties by position; uint8."""
    order = keys.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(keys.shape[-1], dtype=torch.uint8).expand_as(order)
    return torch.empty(order.shape, dtype=torch.uint8).scatter_(-1, order, places)
