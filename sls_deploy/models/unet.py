"""UNet: a plain encoder-decoder with skip connections, for deblurring.

After Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015, padded, without pooling and with a global residual. Depth and width are chosen to come near
the UNet of Oh et al., CVPR 2022 (SLS), of which only the cost is known: 6.79 M parameters and 458
GMACs at 1280x720. This one has 6,760,579 parameters and 452 GMACs. The keys are this project's own.
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

_WIDEST = 4


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU())


class UNet(nn.Module):
    """The whole network, input and output on 0..1.

    Args:
        features: channels at full resolution; each halving of the sides doubles them, up to four
            times as many.
        halvings: how often the sides are halved, from 1.
        middle: convolutions at the lowest resolution, behind the one that leads there.

    Raises:
        SlsError: no halving.
    """

    def __init__(self, *, features: int = 64, halvings: int = 3, middle: int = 3) -> None:
        super().__init__()
        if halvings < 1:
            raise SlsError(
                "UNet cannot do without halving the sides", fix="Use halvings of 1 or more."
            )
        widths = [features * min(2**step, _WIDEST) for step in range(halvings + 1)]
        inputs = [3, *widths]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                _convolution(inputs[step], widths[step], 2 if step else 1),
                _convolution(widths[step], widths[step]),
            )
            for step in range(halvings)
        )
        self.middle = nn.Sequential(
            _convolution(widths[-2], widths[-1], 2),
            *(_convolution(widths[-1], widths[-1]) for _ in range(middle)),
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(widths[step + 1], widths[step], 4, stride=2, padding=1)
            for step in reversed(range(halvings))
        )
        self.decoders = nn.ModuleList(
            _convolution(2 * widths[step], widths[step]) for step in reversed(range(halvings))
        )
        self.exit = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..1, sides multiples of 2 to the power of `halvings` pixels, to the same."""
        out = x
        skips = []
        for encoder in self.encoders:
            out = encoder(out)
            skips.append(out)
        out = self.middle(out)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            out = decoder(torch.cat([torch.relu(up(out)), skips.pop()], dim=1))
        return x + self.exit(out)  # type: ignore[no-any-return]


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe a UNet state dict; see `Architecture.recognise`.

    Raises:
        SlsError: a scale other than 1 is asked for, or a key is missing or mis-shaped.
    """
    halvings = count_blocks(state, r"encoders\.(\d+)\.0\.0\.weight")
    if not halvings or "ups.0.weight" not in state:
        return None
    options = {
        "features": tensor_shape(state, "exit.weight")[1],
        "halvings": halvings,
        "middle": count_blocks(state, r"middle\.(\d+)\.0\.weight") - 1,
    }
    found = choose_scale([1], scale)
    return Description("unet", options, found, 1.0, least_side=2**halvings, multiple=2**halvings)


ARCHITECTURE = Architecture(
    name="unet",
    paper="U-Net, Ronneberger et al., MICCAI 2015, as a deblurring network",
    build=UNet,
    recognise=recognise,
)
