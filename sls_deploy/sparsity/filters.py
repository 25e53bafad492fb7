"""Every layer's weight in one form: filters, input channels, taps.

2:4 and N:M run along the input channels of one filter and tap. Convolutions and linear layers have
them in the second dimension, transposed convolutions in the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the weight of a layer lies in memory."""

    groups: int = 1
    """Convolution groups."""
    transposed: bool = False
    """Whether it is of a transposed convolution: [C_in, C_out / groups, *kernel]."""

    def filters(self, weight: Tensor) -> Tensor:
        """A weight as [C_out, C_in / groups, taps]; all taps count as one dimension.

        Args:
            weight: [C_out, C_in / groups, *kernel] or the transposed form.
        """
        flat = weight.reshape(*weight.shape[:2], -1)
        return self._swap(flat) if self.transposed else flat

    def weight(self, filters: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What `filters` made of a weight of this shape, turned back."""
        return (self._swap(filters) if self.transposed else filters).reshape(shape)

    def _swap(self, flat: Tensor) -> Tensor:
        """Exchange the first two dimensions within each group; done twice it changes nothing."""
        first, second, taps = flat.shape
        grouped = flat.reshape(self.groups, first // self.groups, second, taps)
        return grouped.transpose(1, 2).reshape(-1, first // self.groups, taps)
