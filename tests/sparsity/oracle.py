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
    masks = [torch.zeros_like(weight) for _ in range(size)]
    filters, channels = weight.shape[:2]
    flat = weight.detach().reshape(filters, channels, -1)
    for f in range(filters):
        for start in range(0, channels, size):
            group = range(start, start + size)
            for tap in range(flat.shape[2]):

                def value(c: int, f: int = f, tap: int = tap) -> float:
                    return abs(flat[f, c, tap].item()) if c < channels else -1.0

                order = sorted(group, key=lambda c: (-value(c), c))
                if quads_first:
                    first = {
                        c
                        for quad in range(start, start + size, 4)
                        for c in sorted(range(quad, quad + 4), key=lambda c: (-value(c), c))[:2]
                    }
                    order = [c for c in order if c in first] + [c for c in order if c not in first]
                for rank, c in enumerate(order):
                    if c < channels:
                        masks[rank].view(filters, channels, -1)[f, c, tap] = 1
    return masks


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
