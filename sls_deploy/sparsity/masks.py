"""Masks as a table look-up by rank, with the straight-through gradient to the scores."""

from __future__ import annotations

from collections.abc import Sequence
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

    The products and their gradients are float64: the gradient of `cumprod` divides by the scores,
    which in float32 loses all digits where a product is subnormal.

    Args:
        scores: priority scores in [0, 1.03], shape [layers, units - 1].

    Returns:
        0 or 1 as float64, shape [layers, units].
    """
    products = scores.double().cumprod(dim=1)
    # Compared as the scores' dtype: a product that it cannot tell from the threshold is dropped.
    kept = (products.to(scores.dtype) > THRESHOLD).double()
    through = kept + (products - products.detach())
    return torch.cat([torch.ones_like(products[:, :1]), through], dim=1)


def look_up(table: Tensor, units: Sequence[Tensor]) -> list[Tensor]:
    """Masks of all layers: 0 or 1 as uint8, of the shapes of `units`, without a gradient.

    As uint8, as ranks are: float masks of a network would need as much memory as its weights.

    Args:
        table: shape [layers, units].
        units: uint8 from `rank_units`, one tensor for each layer.
    """
    rows = table.detach().to(torch.uint8)
    return [
        row.index_select(0, places.flatten().int()).view_as(places)
        for row, places in zip(rows, units, strict=True)
    ]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, units: Sequence[Tensor], masks: Sequence[Tensor], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(table, *weights)
        ctx.units, ctx.masks = units, masks
        return tuple(weight * mask for weight, mask in zip(weights, masks, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        table, *weights = ctx.saved_tensors
        sums = None
        if ctx.needs_input_grad[0]:
            # Multiplied and summed in float64: a layer's thousands of products nearly cancel.
            sums = torch.zeros_like(table)
            for row, places, grad, weight in zip(sums, ctx.units, grads, weights, strict=True):
                row.index_add_(0, places.flatten().int(), (grad.double() * weight).flatten())
        used = (grad * mask for grad, mask in zip(grads, ctx.masks, strict=True))
        return sums, None, None, *used


def masked_weights(
    weights: Sequence[Tensor], table: Tensor, units: Sequence[Tensor], masks: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The weights that are used: weight times mask, of all layers at once.

    Backward, a pruned weight gets no gradient, and each entry of `table` gets the sum of
    gradient times weight over the weights of that layer and unit.

    Args:
        weights: shape [C_out, C_in, *kernel] each.
        table: from `keep_table`, float64 of shape [layers, units].
        units: uint8 from `rank_units`, shaped like the weights.
        masks: `look_up(table, units)`, kept by the caller while neither changes.
    """
    result: tuple[Tensor, ...] = _Masked.apply(table, units, masks, *weights)  # type: ignore[no-untyped-call]
    return result
