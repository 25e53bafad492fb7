"""The paper's sparse layer, written straight from its equations with M stacked masks.

Oh et al., CVPR 2022, section 3: the weight that is used is

    W o m_1 + sum over i of b(p_i) * (W o m_(i+1)),    p_i = product of s_1 .. s_i,

with m_j the mask of the j-th pruning unit and b the binarisation at 0.5, straight through.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pruning_units(weight: Tensor, size: int, *, quads_first: bool) -> list[Tensor]:
    """The masks m_1 .. m_M of a weight, one element of every group each; plain loops."""
    filters, channels = weight.shape[:2]
    ranks = torch.empty(filters, channels, weight[0, 0].numel())
    written = ranks.numpy()
    magnitudes = weight.detach().abs().reshape(ranks.shape).transpose(1, 2).tolist()
    for f, taps in enumerate(magnitudes):
        for tap, column in enumerate(taps):
            values = column + [-1.0] * (-channels % size)
            for start in range(0, channels, size):
                order = _order(values, range(start, start + size), quads_first=quads_first)
                for rank, c in enumerate(order):
                    if c < channels:
                        written[f, c, tap] = rank
    return [(ranks == rank).to(weight.dtype).view_as(weight) for rank in range(size)]


def _order(values: list[float], group: range, *, quads_first: bool) -> list[int]:
    """Channels of a group from the largest value to the least, the two of every quad first."""

    def sort(channels: range) -> list[int]:
        return sorted(channels, key=lambda c: (-values[c], c))

    order = sort(group)
    if not quads_first:
        return order
    first = {c for quad in group[::4] for c in sort(range(quad, quad + 4))[:2]}
    return [c for c in order if c in first] + [c for c in order if c not in first]


class _Binarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, p: Tensor) -> Tensor:
        return (p > 0.5).to(p.dtype)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


def sparse_weight(weight: Tensor, scores: Tensor, masks: list[Tensor]) -> Tensor:
    """The weight that is used, differentiable in `weight` and `scores` [M - 1]."""
    used = weight * masks[0]
    p = torch.ones((), dtype=scores.dtype)
    for score, mask in zip(scores, masks[1:], strict=True):
        p = p * score
        used = used + _Binarise.apply(p).to(weight.dtype) * (weight * mask)
    return used
