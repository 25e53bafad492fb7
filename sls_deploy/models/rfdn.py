"""RFDN: residual feature distillation.

Liu et al., "Residual Feature Distillation Network for Lightweight Image Super-Resolution", ECCVW
2020. Keys are those of the authors' release for the AIM 2020 challenge.
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
from sls_deploy.models.spatial_attention import LEAST_SIDE, DeepSpatialAttention

_SLOPE = 0.05


class DistillationBlock(nn.Module):
    """Residual feature distillation block (RFDB).

    Three times a 1x1 convolution keeps (`d`) part of the features while a shallow residual block
    refines (`r`) them; what was kept is fused at the end.
    """

    def __init__(self, features: int, distilled: int, attention: int) -> None:
        super().__init__()
        self.c1_d = nn.Conv2d(features, distilled, 1)
        self.c1_r = nn.Conv2d(features, features, 3, padding=1)
        self.c2_d = nn.Conv2d(features, distilled, 1)
        self.c2_r = nn.Conv2d(features, features, 3, padding=1)
        self.c3_d = nn.Conv2d(features, distilled, 1)
        self.c3_r = nn.Conv2d(features, features, 3, padding=1)
        self.c4 = nn.Conv2d(features, distilled, 3, padding=1)
        self.c5 = nn.Conv2d(4 * distilled, features, 1)
        self.esa = DeepSpatialAttention(features, attention)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        kept = []
        for distil, refine in (
            (self.c1_d, self.c1_r),
            (self.c2_d, self.c2_r),
            (self.c3_d, self.c3_r),
        ):
            kept.append(functional.leaky_relu(distil(x), _SLOPE))
            x = functional.leaky_relu(refine(x) + x, _SLOPE)
        kept.append(functional.leaky_relu(self.c4(x), _SLOPE))
        return self.esa(self.c5(torch.cat(kept, dim=1)))  # type: ignore[no-any-return]


class RFDN(nn.Module):
    """The whole network, input and output on 0..255; sides from 15 pixels.

    The defaults are the network that won the AIM 2020 challenge.

    Args:
        features: channels.
        distilled: channels kept by each distillation.
        attention: channels inside the spatial attention.
        blocks: distillation blocks.
        scale: any whole number.
    """

    def __init__(
        self,
        *,
        features: int = 50,
        distilled: int = 25,
        attention: int = 12,
        blocks: int = 4,
        scale: int = 4,
    ) -> None:
        super().__init__()
        self.fea_conv = nn.Conv2d(3, features, 3, padding=1)
        self.names = [f"B{number}" for number in range(1, blocks + 1)]
        for name in self.names:
            self.add_module(name, DistillationBlock(features, distilled, attention))
        self.c = nn.Sequential(nn.Conv2d(blocks * features, features, 1), nn.LeakyReLU(_SLOPE))
        self.LR_conv = nn.Conv2d(features, features, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(features, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..255, to the same with sides times the scale."""
        shallow = out = self.fea_conv(x)
        outputs = []
        for name in self.names:
            out = self.get_submodule(name)(out)
            outputs.append(out)
        deep = self.LR_conv(self.c(torch.cat(outputs, dim=1)))
        return self.upsampler(deep + shallow)  # type: ignore[no-any-return]


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe an RFDN state dict; see `Architecture.recognise`.

    Raises:
        SlsError: the scale asked for is not there, or a key is missing or mis-shaped.
    """
    blocks = count_blocks(state, r"B(\d+)\.c1_d\.weight")
    if not blocks:
        return None
    found = pixel_shuffle_scale(state, "upsampler.0.weight")
    options = {
        "features": tensor_shape(state, "fea_conv.weight")[0],
        "distilled": tensor_shape(state, "B1.c1_d.weight")[0],
        "attention": tensor_shape(state, "B1.esa.conv1.weight")[0],
        "blocks": blocks,
        "scale": choose_scale([found], scale),
    }
    return Description("rfdn", options, found, 255.0, least_side=LEAST_SIDE)


ARCHITECTURE = Architecture(
    name="rfdn",
    paper="RFDN, Liu et al., ECCVW 2020",
    build=RFDN,
    recognise=recognise,
)
