"""A small network that deblurs the middle one of three frames, each an argument of its own.

The frames are fused early, as one of the ways that Tassano et al., "FastDVDnet", CVPR 2020,
compare; its head halves the sides by PixelUnshuffle and its tail brings them back.

    sls-deploy train --model examples/networks/frames.py:make --frames 3 --data photos/ --out frames.safetensors
"""  # noqa: E501

from __future__ import annotations

import torch
from torch import Tensor, nn


def make(*, features: int = 32, blocks: int = 4) -> nn.Module:
    """The network; sides must be even."""
    return Frames(features, blocks)


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a residual."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1, bias=False),
            nn.BatchNorm2d(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to the same."""
        return x + self.body(x)


class Frames(nn.Module):
    """Shared head for each frame, fusion, blocks, and a tail that corrects the middle frame."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, features, 3, padding=1), nn.PReLU(features)
        )
        self.fuse = nn.Conv2d(3 * features, features, 1)
        self.body = nn.Sequential(*(Block(features) for _ in range(blocks)))
        self.tail = nn.Sequential(nn.Conv2d(features, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, before: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """Three pictures NCHW RGB, 0..1, to the middle one restored."""
        heads = torch.cat([self.head(frame) for frame in (before, now, after)], dim=1)
        return now + self.tail(self.body(self.fuse(heads)))
