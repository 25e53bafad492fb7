"""Sparsity patterns: how the weights of a group are cut into ordered pruning units."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.legality import QUAD


@dataclass(frozen=True)
class Pattern:
    """An ordered list of pruning units for every group of input channels.

    The weights of a group are ranked; unit i holds the ranks `i * step` to `(i + 1) * step - 1`.
    Unit 0 is always kept. Keeping the first `k` units is `k * step : group` sparsity.
    """

    group: int
    """M: consecutive input channels of one filter and kernel tap."""
    step: int
    """Ranks in a unit: 1 for n:M, 2 for 2:4 (a layer is then dense or 2:4)."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read '2:4' or 'n:M'.

        Raises:
            SlsError: another pattern.
        """
        if text == "2:4":
            return cls(group=4, step=2)
        if match := re.fullmatch(r"n:(4|8|16|32)", text):
            return cls(group=int(match[1]), step=1)
        raise SlsError(f"unknown pattern '{text}'", "--pattern", "Use 2:4, n:4, n:8, n:16 or n:32.")

    @property
    def units(self) -> int:
        """Pruning units of a layer."""
        return self.group // self.step

    def unit_shares(self, channels: int) -> Tensor:
        """Share of a layer's dense cost that each unit has; float64 of shape [units], sum 1.

        Channels count rounded up to a multiple of four, as the tensor cores execute them: so
        2:4 costs exactly a half, whatever the number of channels. Slots of a group beyond that
        cost nothing; `rank_units` puts them behind the others of their half.

        Args:
            channels: input channels of one convolution group.
        """
        aligned = -(-channels // QUAD) * QUAD
        full, rest = divmod(aligned, self.group)
        ranks = torch.arange(self.group)
        half = max(self.group // 2, QUAD // 2)
        slots = full + (ranks % half < rest // 2).double()
        return slots.view(self.units, self.step).sum(1) / aligned
