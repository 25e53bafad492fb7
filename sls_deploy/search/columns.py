"""What a layer's weights are multiplied with, position by position, whatever kind of layer it is.

A linear layer is a 1x1 convolution over all its positions, and a transposed convolution one with
stride 1 over its input with zeros between (Dumoulin and Visin, "A guide to convolution arithmetic
for deep learning", 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx
from torch.nn import functional

from sls_deploy.search.trace import KINDS

_DEFAULTS: tuple[Any, ...] = (None, None, None, (1, 1), (0, 0), (1, 1), 1)
_TRANSPOSED: tuple[Any, ...] = (None, None, None, (1, 1), (0, 0), (0, 0), 1, (1, 1))


@dataclass(frozen=True)
class Columns:
    """The inputs of a layer as a plain convolution sees them, and its outputs."""

    x: Tensor
    """NCHW, padded."""
    kernel: tuple[int, int]
    """Height and width."""
    stride: tuple[int, int]
    """Down and across."""
    dilation: tuple[int, int]
    """Down and across."""
    groups: int
    """Convolution groups."""
    flipped: bool = False
    """Whether the taps are met in reverse, as in a transposed convolution."""
    rows: bool = False
    """Whether channels come last, as in a linear layer."""

    @classmethod
    def of(cls, node: fx.Node, arguments: Sequence[Any]) -> Columns:
        """Read the call of a convolution or linear layer.

        Args:
            node: the operation.
            arguments: what it is called with.
        """
        kind = KINDS[node.target]
        x, weight = arguments[:2]
        if kind == "Linear":
            rows = x.reshape(-1, x.shape[-1])
            return cls(rows.T[None, :, None], (1, 1), (1, 1), (1, 1), 1, rows=True)
        defaults = _TRANSPOSED if kind.startswith("ConvTranspose") else _DEFAULTS
        values = (*arguments, *defaults[len(arguments) :])
        kernel = tuple(weight.shape[2:])
        if kind.endswith("1d"):
            x, kernel = x.unsqueeze(2), (1, *kernel)
        if kind.startswith("ConvTranspose"):
            stride, padding, extra, groups, dilation = values[3:]
            stride, dilation = _pair(stride, 1), _pair(dilation, 1)
            reach = [gap * (taps - 1) for taps, gap in zip(kernel, dilation, strict=True)]
            before = [far - pad for far, pad in zip(reach, _pair(padding, 0), strict=True)]
            after = [pad + more for pad, more in zip(before, _pair(extra, 0), strict=True)]
            x = _padded(_spread(x, stride), before, after)
            return cls(x, kernel, (1, 1), dilation, groups, flipped=True)
        stride, padding, dilation, groups = values[3:]
        stride, dilation = _pair(stride, 1), _pair(dilation, 1)
        before, after = _sides(padding, kernel, dilation)
        x = _padded(x, before, after)
        return cls(x, kernel, stride, dilation, groups)

    @property
    def pictures(self) -> int:
        """Pictures; all rows of a linear layer count as one."""
        return len(self.x)

    @property
    def spots(self) -> int:
        """Positions in a picture."""
        sides = zip(self.x.shape[2:], self.kernel, self.stride, self.dilation, strict=True)
        count = 1
        for side, taps, step, gap in sides:
            count *= (side - gap * (taps - 1) - 1) // step + 1
        return count

    def inputs(self, picture: int, every: int, first: int) -> Tensor:
        """What the weights meet at every n-th position of a picture.

        Returns:
            [groups, channels * taps, positions], the taps in the order of the weight.
        """
        x = self.x[picture][None]
        if self.kernel == self.stride == (1, 1):
            return x.view(self.groups, -1, self.spots)[:, :, first::every]
        columns = functional.unfold(x, self.kernel, self.dilation, 0, self.stride)
        taken = columns.view(self.groups, -1, self.spots)[:, :, first::every]
        if not self.flipped:
            return taken
        by_tap = taken.view(self.groups, -1, self.kernel[0] * self.kernel[1], taken.shape[-1])
        return by_tap.flip(2).flatten(1, 2)

    def outputs(self, output: Tensor, bias: Tensor | None) -> Tensor:
        """What the weights alone give: [pictures, groups, filters, positions].

        Args:
            output: the layer's.
            bias: the layer's.
        """
        if self.rows:
            output = output.reshape(-1, output.shape[-1]).T[None]
        if bias is not None:
            output = output - bias.view(1, -1, *[1] * (output.dim() - 2))
        return output.reshape(self.pictures, self.groups, -1, self.spots)


def _pair(values: Any, fill: int) -> tuple[int, int]:
    """Down and across; one number is of a 1d operation."""
    numbers = [int(value) for value in values]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (fill, numbers[0])


def _sides(
    padding: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after, also for 'same' and 'valid'."""
    if isinstance(padding, str):
        reach = [gap * (taps - 1) for taps, gap in zip(kernel, dilation, strict=True)]
        same = padding == "same"
        return [far // 2 * same for far in reach], [(far + 1) // 2 * same for far in reach]
    return list(_pair(padding, 0)), list(_pair(padding, 0))


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    return functional.pad(x, (before[1], after[1], before[0], after[0]))


def _spread(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Put zeros between the pixels."""
    if stride == (1, 1):
        return x
    down, across = stride
    sides = ((x.shape[2] - 1) * down + 1, (x.shape[3] - 1) * across + 1)
    spread = x.new_zeros(*x.shape[:2], *sides)
    spread[:, :, ::down, ::across] = x
    return spread
