"""Masks as a table look-up by rank, with the straight-through gradient to the scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

THRESHOLD = 0.5
"""A unit is kept where the cumulative product of its layer's scores exceeds this."""
MAX_SCORE = 1.03
"""Upper bound of a priority score; above 1, so that a product can rise again."""


def keep_table(scores: Tensor) -> Tensor:
    """Which units each layer keeps, with the straight-through gradient of the paper.

    p = cumprod(scores); unit 0 is always kept, unit i + 1 where p_i > 0.5. Backward, the table
    stands for p. (Oh et al., CVPR 2022, section 3.)

    Args:
        scores: priority scores in [0, 1.03], shape [layers, units - 1].

    Returns:
        0 or 1, shape [layers, units], of the scores' dtype.
    """
    products = scores.cumprod(dim=1)
    kept = (products > THRESHOLD).to(products.dtype)
    through = kept + (products - products.detach())
    return torch.cat([torch.ones_like(scores[:, :1]), through], dim=1)


def look_up(row: Tensor, units: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask of a layer: `row[units]`, of the shape of `units`."""
    return row.detach().to(dtype).index_select(0, units.flatten().int()).view(units.shape)


class _MaskedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, row: Tensor, units: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, row, units, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, row, units, mask = ctx.saved_tensors
        (grad,) = grads
        grad_row = None
        if ctx.needs_input_grad[1]:
            # Summed in float64: a layer's thousands of products nearly cancel.
            products = (grad * weight).flatten().double()
            grad_row = torch.bincount(units.flatten(), products, len(row)).to(row.dtype)
        return grad * mask, grad_row, None, None


def masked_weight(weight: Tensor, row: Tensor, units: Tensor, mask: Tensor) -> Tensor:
    """The weight that is used: `weight * mask`.

    Backward, a pruned weight gets no gradient, and unit u of `row` gets the sum of
    gradient times weight over the weights of that unit.

    Args:
        weight: shape [C_out, C_in, *kernel].
        row: the layer's row of `keep_table`, shape [units].
        units: uint8 from `rank_units`, shaped like `weight`.
        mask: `look_up(row, units)`, kept by the caller while neither changes.
    """
    result: Tensor = _MaskedWeight.apply(weight, row, units, mask)  # type: ignore[no-untyped-call]
    return result
