"""Pruned weights that may come back while a network is fine-tuned (SR-STE).

They get their gradient straight through the mask and are pulled to zero; masks are chosen anew from
time to time. Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From
Scratch", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sls_deploy.sparsity.filters import Layout
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_weights

REGROWING = 0.6
"""Share of the steps in which masks are chosen anew."""
_DECAY = 2e-4
"""Pull of pruned weights to zero."""


@dataclass(frozen=True)
class Regrowth:
    """How masks are chosen anew: the largest weights of each group, as many as before."""

    pattern: Pattern
    """What the units are."""
    units: Mapping[str, int]
    """Units kept, by parameter name; a mask without an entry stays."""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """How weights lie that are not of plain convolutions, by parameter name."""

    def masks(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the weights as they are, 0 or 1, by parameter name."""
        plain = Layout()
        masks = {}
        for name, count in self.units.items():
            units = rank_weights(weights[name], self.pattern, self.layouts.get(name, plain))
            masks[name] = (units < count).to(weights[name])
        return masks


def through_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Forward the masked weights, backward as if there were no mask; by parameter name."""
    return {
        name: weights[name] - (weights[name] * (1 - mask)).detach() for name, mask in masks.items()
    }


def pull(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """Part of the loss that pulls pruned weights to zero."""
    squares = [(weights[name] * (1 - mask)).square().sum() for name, mask in masks.items()]
    return _DECAY / 2 * torch.stack(squares).sum()
