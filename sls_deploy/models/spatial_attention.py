"""Enhanced spatial attention, used by RFDN and RLFN."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LEAST_SIDE = 15
"""Smallest side of an input in pixels: a convolution with stride 2 leaves the pooling window, 7."""


class SpatialAttention(nn.Module):
    """Weighs every pixel by a map computed on a coarse grid (ESA), in the form of RLFN.

    Source: Liu et al., "Residual Feature Aggregation Network", CVPR 2020. RLFN (Kong et al., CVPRW
    2022) leaves one convolution on the coarse grid. Sides of the input are at least `LEAST_SIDE`.

    Args:
        features: channels of input and output.
        channels: channels inside.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, channels, 1)
        self.conv_f = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv4 = nn.Conv2d(channels, features, 1)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Convolutions on the coarse grid, NCHW."""
        return self.conv3(x)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weigh NCHW features; same shape."""
        narrow = self.conv1(x)
        grid = self.coarse(functional.max_pool2d(self.conv2(narrow), kernel_size=7, stride=3))
        grid = functional.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(grid + self.conv_f(narrow)))


class DeepSpatialAttention(SpatialAttention):
    """Spatial attention with three convolutions on the coarse grid, as RFDN has it."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__(features, channels)
        self.conv_max = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3_ = nn.Conv2d(channels, channels, 3, padding=1)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Convolutions on the coarse grid, NCHW."""
        x = functional.relu(self.conv3(functional.relu(self.conv_max(x))))
        return self.conv3_(x)  # type: ignore[no-any-return]
