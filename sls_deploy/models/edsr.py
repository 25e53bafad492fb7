"""EDSR: deep residual blocks without normalisation.

Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017. Keys
are those of the authors' PyTorch release.
"""

from __future__ import annotations

import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import (
    Architecture,
    Description,
    StateDict,
    choose_scale,
    count_blocks,
    tensor_shape,
)
from sls_deploy.models.mean_shift import MeanShift, recognised_range


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, scaled and added to the input (figure 2c)."""

    def __init__(self, features: int, res_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        residual: torch.Tensor = self.body(x)
        return x + (residual if self.res_scale == 1 else residual * self.res_scale)


class EDSR(nn.Module):
    """The whole network (figure 3); the defaults are the paper's baseline.

    Args:
        features: channels of the body.
        blocks: residual blocks.
        scale: 2, 3 or 4.
        res_scale: factor on each block's residual; the paper's large network has 0.1.
        mean_shift: subtract the mean colour at the input and add it at the output.
        input_range: the value of white, 1 or 255; sets the mean shift.

    Raises:
        SlsError: a scale other than 2, 3 and 4.
    """

    def __init__(
        self,
        *,
        features: int = 64,
        blocks: int = 16,
        scale: int = 4,
        res_scale: float = 1.0,
        mean_shift: bool = True,
        input_range: float = 255.0,
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise SlsError(f"EDSR has no x{scale}", fix="Its scales are 2, 3 and 4.")
        self.sub_mean = MeanShift(input_range, -1) if mean_shift else nn.Identity()
        self.add_mean = MeanShift(input_range, 1) if mean_shift else nn.Identity()
        self.head = nn.Sequential(nn.Conv2d(3, features, 3, padding=1))
        self.body = nn.Sequential(
            *(ResidualBlock(features, res_scale) for _ in range(blocks)),
            nn.Conv2d(features, features, 3, padding=1),
        )
        steps: list[nn.Module] = []
        for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
            steps.append(nn.Conv2d(features, features * factor**2, 3, padding=1))
            steps.append(nn.PixelShuffle(factor))
        self.tail = nn.Sequential(nn.Sequential(*steps), nn.Conv2d(features, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..input_range, to the same with sides times the scale."""
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.body(x) + x))  # type: ignore[no-any-return]


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe an EDSR state dict; see `Architecture.recognise`.

    Keys and shapes cannot tell the residual factor: it is 0.1 for the paper's large network (256
    channels, 32 blocks) and 1 for all others. Without a mean shift they cannot tell the input range
    either: it is then the authors' 255.

    Raises:
        SlsError: the scale asked for is not there, or a key is missing or mis-shaped.
    """
    blocks = count_blocks(state, r"body\.(\d+)\.body\.[02]\.weight")
    if not blocks or not any(key.startswith("tail.") for key in state):
        return None
    features = tensor_shape(state, "head.0.weight")[0]
    filters = tensor_shape(state, "tail.0.0.weight")[0]
    found = 3 if filters == 9 * features else 4 if "tail.0.2.weight" in state else 2
    mean_shift = any(key.startswith(("sub_mean.", "add_mean.")) for key in state)
    if mean_shift:
        tensor_shape(state, "sub_mean.bias", rank=1)
    input_range = recognised_range(state["sub_mean.bias"]) if mean_shift else 255.0
    options = {
        "features": features,
        "blocks": blocks,
        "scale": choose_scale([found], scale),
        "res_scale": 0.1 if (features, blocks) == (256, 32) else 1.0,
        "mean_shift": mean_shift,
        "input_range": input_range,
    }
    return Description("edsr", options, found, input_range)


ARCHITECTURE = Architecture(
    name="edsr",
    paper="EDSR, Lim et al., CVPRW 2017",
    build=EDSR,
    recognise=recognise,
)
