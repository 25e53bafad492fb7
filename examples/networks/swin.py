"""A small super-resolution network of window attention, after SwinIR.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021.

    sls-deploy train --model examples/networks/swin.py:make --data photos/ --out swin.safetensors
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def make(*, scale: int = 2, features: int = 32, blocks: int = 4, window: int = 8) -> nn.Module:
    """The network; every second block shifts its windows by half of their side."""
    return Swin(scale, features, blocks, window)


class Attention(nn.Module):
    """Attention of the pixels of a window to one another, with a bias for each relative place."""

    def __init__(self, features: int, window: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        place = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None, :] + window - 1
        self.register_buffer("offset", offset[0] * (2 * window - 1) + offset[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Windows x places x channels to the same."""
        count, places, features = x.shape
        qkv = self.qkv(x).view(count, places, 3, self.heads, features // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (features // self.heads) ** -0.5
        weights = (scores + self.bias[:, self.offset]).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(count, places, features))


class Block(nn.Module):
    """Attention inside windows and two linear layers, each normalised and with a residual."""

    def __init__(self, features: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.first, self.second = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attention = Attention(features, window)
        self.mix = nn.Sequential(
            nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        """NHWC to the same; sides are multiples of the window."""
        batch, height, width, features = x.shape
        side, moved = self.window, self.first(x)
        if self.shift:
            moved = torch.roll(moved, (-self.shift, -self.shift), (1, 2))
        tiles = moved.view(batch, height // side, side, width // side, side, features)
        windows = tiles.transpose(2, 3).reshape(-1, side * side, features)
        tiles = self.attention(windows).view(
            batch, height // side, width // side, side, side, features
        )
        moved = tiles.transpose(2, 3).reshape(batch, height, width, features)
        if self.shift:
            moved = torch.roll(moved, (self.shift, self.shift), (1, 2))
        x = x + moved
        return x + self.mix(self.second(x))


class Swin(nn.Module):
    """Entry convolution, blocks, exit convolution with pixel shuffle, over a bilinear picture."""

    def __init__(self, scale: int, features: int, blocks: int, window: int) -> None:
        super().__init__()
        self.scale = scale
        self.entry = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.ModuleList(
            Block(features, window, window // 2 * (number % 2)) for number in range(blocks)
        )
        self.fuse = nn.Conv2d(features, features, 3, padding=1)
        self.exit = nn.Sequential(
            nn.Conv2d(features, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        """NCHW RGB, 0..1, to the same with sides times the scale."""
        shallow = self.entry(x)
        deep = shallow.permute(0, 2, 3, 1)
        for block in self.blocks:
            deep = block(deep)
        deep = self.fuse(deep.permute(0, 3, 1, 2)) + shallow
        return self.exit(deep) + functional.interpolate(x, scale_factor=self.scale, mode="bilinear")
