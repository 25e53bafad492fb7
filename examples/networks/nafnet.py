"""A small deblurring network without activations, after NAFNet.

Chen et al., "Simple Baselines for Image Restoration", ECCV 2022.

    sls-deploy train --model examples/networks/nafnet.py:make --data photos/ --out nafnet.safetensors
"""  # noqa: E501

from __future__ import annotations

import torch
from torch import Tensor, nn


def make(*, features: int = 16, levels: int = 2, middle: int = 2) -> nn.Module:
    """The network; sides must be multiples of 2 ** levels."""
    return Nafnet(features, levels, middle)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every pixel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(features, 1, 1))
        self.offset = nn.Parameter(torch.zeros(features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to the same."""
        centred = x - x.mean(1, keepdim=True)
        scale = (centred.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return centred * scale * self.factor + self.offset


class Gate(nn.Module):
    """One half of the channels times the other."""

    def forward(self, x: Tensor) -> Tensor:
        """N2CHW to NCHW."""
        first, second = x.chunk(2, dim=1)
        return first * second


class ChannelAttention(nn.Module):
    """Weighs channels by a linear function of their means."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to the same."""
        return x * self.mix(x.mean((2, 3), keepdim=True))


class Block(nn.Module):
    """Depthwise convolution with channel attention, then two 1x1 convolutions; gates between."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            ChannelNorm(features),
            nn.Conv2d(features, 2 * features, 1),
            nn.Conv2d(2 * features, 2 * features, 3, padding=1, groups=2 * features),
            Gate(),
            ChannelAttention(features),
            nn.Conv2d(features, features, 1),
        )
        self.mix = nn.Sequential(
            ChannelNorm(features),
            nn.Conv2d(features, 2 * features, 1),
            Gate(),
            nn.Conv2d(features, features, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to the same."""
        x = x + self.look(x)
        return x + self.mix(x)


class Nafnet(nn.Module):
    """Blocks on the way down and up, joined by addition, over the blurred picture."""

    def __init__(self, features: int, levels: int, middle: int) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(levels + 1)]
        self.entry = nn.Conv2d(3, features, 3, padding=1)
        self.encoders = nn.ModuleList(Block(width) for width in widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, 2) for width in widths[:-1])
        self.middle = nn.Sequential(*(Block(widths[-1]) for _ in range(middle)))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2))
            for width in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(Block(width) for width in reversed(widths[:-1]))
        self.exit = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW RGB, 0..1, to the same."""
        out, skips = self.entry(x), []
        for block, down in zip(self.encoders, self.downs, strict=True):
            out = block(out)
            skips.append(out)
            out = down(out)
        out = self.middle(out)
        for up, block in zip(self.ups, self.decoders, strict=True):
            out = block(up(out) + skips.pop())
        return x + self.exit(out)
