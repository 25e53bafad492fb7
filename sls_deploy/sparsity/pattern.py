"""Sparsity patterns: how the weights of a group are cut into ordered pruning units."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.legality import QUAD

_GROUP_2_4 = 16
"""Group in which a layer approaches 2:4, so that it loses an eighth of the way at a time."""


@dataclass(frozen=True)
class Pattern:
    """An ordered list of pruning units for every group of input channels.

    The weights of a group are ranked. Unit 0 holds the first `first` ranks and is always kept;
    each further unit holds one rank.
    """

    group: int
    """M: consecutive input channels of one filter and kernel tap."""
    first: int
    """Ranks in unit 0: 1 for n:M, half of the group for 2:4."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read '2:4' or 'n:M'.

        Raises:
            SlsError: another pattern.
        """
        if text == "2:4":
            return cls(group=_GROUP_2_4, first=_GROUP_2_4 // 2)
        if match := re.fullmatch(r"n:(4|8|16|32)", text):
            return cls(group=int(match[1]), first=1)
        raise SlsError(f"unknown pattern '{text}'", "--pattern", "Use 2:4, n:4, n:8, n:16 or n:32.")

    @property
    def units(self) -> int:
        """Pruning units of a layer."""
        return self.group - self.first + 1

    @property
    def binary(self) -> bool:
        """Whether a layer ends dense or 2:4; the units between only lead there."""
        return self.first > 1

    @property
    def stride(self) -> int:
        """Units by which the final numbers kept differ: 1, 1 + stride, ... up to all."""
        return self.units - 1 if self.binary else 1

    def unit_of(self, ranks: Tensor) -> Tensor:
        """Unit of each rank; the same shape and dtype."""
        return (ranks.clamp_min(self.first - 1) - (self.first - 1)).to(ranks.dtype)

    def ratio(self, count: int) -> tuple[int, int]:
        """N and M of a layer that keeps its first `count` units."""
        kept = count + self.first - 1
        return (kept * QUAD // self.group, QUAD) if self.binary else (kept, self.group)

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
        slots = full + (ranks % (self.group // 2) < rest // 2).double()
        shares = torch.zeros(self.units, dtype=torch.float64)
        return shares.index_add_(0, self.unit_of(ranks), slots / aligned)
