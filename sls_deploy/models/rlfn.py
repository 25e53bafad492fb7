"""RLFN and RLFN-S: residual local features.

Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", CVPRW 2022. Keys are
those of the authors' release.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from sls_deploy.models.architecture import (
    Architecture,
    Description,
    StateDict,
    choose_scale,
    count_blocks,
    pixel_shuffle_scale,
    tensor_shape,
)
from sls_deploy.models.spatial_attention import LEAST_SIDE, SpatialAttention

_SLOPE = 0.05


class LocalBlock(nn.Module):
    """Residual local feature block (RLFB); the residual joins before the fusion."""

    def __init__(self, features: int, inner: int, attention: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(features, inner, 3, padding=1)
        self.c2_r = nn.Conv2d(inner, inner, 3, padding=1)
        self.c3_r = nn.Conv2d(inner, features, 3, padding=1)
        self.c5 = nn.Conv2d(features, features, 1)
        self.esa = SpatialAttention(features, attention)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        out = x
        for convolution in (self.c1_r, self.c2_r, self.c3_r):
            out = functional.leaky_relu(convolution(out), _SLOPE)
        return self.esa(self.c5(out + x))  # type: ignore[no-any-return]


class RLFN(nn.Module):
    """The whole network, input and output on 0..255; sides from 15 pixels.

    The defaults are RLFN; RLFN-S has 48 features.

    Args:
        features: channels between blocks.
        inner: channels inside blocks; None for the same.
        attention: channels inside the spatial attention.
        blocks: residual local feature blocks.
        scale: any whole number.
    """

    def __init__(
        self,
        *,
        features: int = 52,
        inner: int | None = None,
        attention: int = 16,
        blocks: int = 6,
        scale: int = 4,
    ) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(3, features, 3, padding=1)
        self.names = [f"block_{number}" for number in range(1, blocks + 1)]
        for name in self.names:
            self.add_module(name, LocalBlock(features, inner or features, attention))
        self.conv_2 = nn.Conv2d(features, features, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(features, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..255, to the same with sides times the scale."""
        shallow = out = self.conv_1(x)
        for name in self.names:
            out = self.get_submodule(name)(out)
        return self.upsampler(self.conv_2(out) + shallow)  # type: ignore[no-any-return]


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe an RLFN or RLFN-S state dict; see `Architecture.recognise`.

    Raises:
        SlsError: the scale asked for is not there, or a key is missing or mis-shaped.
    """
    blocks = count_blocks(state, r"block_(\d+)\.c1_r\.weight")
    if not blocks:
        return None
    found = pixel_shuffle_scale(state, "upsampler.0.weight")
    options = {
        "features": tensor_shape(state, "conv_1.weight")[0],
        "inner": tensor_shape(state, "block_1.c1_r.weight")[0],
        "attention": tensor_shape(state, "block_1.esa.conv1.weight")[0],
        "blocks": blocks,
        "scale": choose_scale([found], scale),
    }
    return Description("rlfn", options, found, 255.0, least_side=LEAST_SIDE)


ARCHITECTURE = Architecture(
    name="rlfn",
    paper="RLFN and RLFN-S, Kong et al., CVPRW 2022",
    build=RLFN,
    recognise=recognise,
)
