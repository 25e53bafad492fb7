"""SRN: one encoder-decoder restores a picture at a quarter, a half and the whole of its sides.

Tao et al., "Scale-recurrent Network for Deep Image Deblurring", CVPR 2018, without its ConvLSTM.

7,086,051 parameters, of which every scale uses all; a picture of 1280x720 costs 1199 GMACs. The
SLS paper (Oh et al., CVPR 2022) counts 7.09 M. With the transposed convolutions of Tao et al., 4x4
pixels, there would be 6.88 M, and their ConvLSTM would make that 8.06 M. A kernel of 6x6 gives 7.09
M: it is what a 3x3 convolution and a pixel shuffle compute. The keys are this project's own.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import (
    Architecture,
    Description,
    StateDict,
    choose_scale,
    count_blocks,
    tensor_shape,
)

_KERNEL = 5
_DIVISORS = (4, 2, 1)  # of the sides, from the coarsest scale to the finest
_MULTIPLE = 16  # the coarsest scale is a quarter, and halved twice


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, _KERNEL, padding=_KERNEL // 2)
        self.conv2 = nn.Conv2d(features, features, _KERNEL, padding=_KERNEL // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        return x + self.conv2(torch.relu(self.conv1(x)))  # type: ignore[no-any-return]


def _encoder(inputs: int, features: int, blocks: int, stride: int) -> nn.Sequential:
    """InBlock (stride 1) or EBlock (stride 2)."""
    entry = nn.Conv2d(inputs, features, _KERNEL, stride, padding=_KERNEL // 2)
    return nn.Sequential(entry, nn.ReLU(), *(ResidualBlock(features) for _ in range(blocks)))


def _decoder(features: int, blocks: int, kernel: int) -> nn.Sequential:
    """DBlock: sides times 2, channels by 2."""
    padding = (kernel - 2) // 2
    up = nn.ConvTranspose2d(features, features // 2, kernel, stride=2, padding=padding)
    return nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)), up, nn.ReLU())


class SRN(nn.Module):
    """The whole network (figure 3), input and output on 0..1; the defaults are the SLS paper's.

    Args:
        features: channels at full resolution.
        blocks: residual blocks at each resolution, of the encoder and again of the decoder.
        up_kernel: height and width of the transposed convolutions' kernel, an even number.

    Raises:
        SlsError: an odd `up_kernel`.
    """

    def __init__(self, *, features: int = 32, blocks: int = 3, up_kernel: int = 6) -> None:
        super().__init__()
        if up_kernel < 2 or up_kernel % 2:
            raise SlsError(f"SRN cannot have up_kernel {up_kernel}", fix="Use an even number.")
        self.in_block = _encoder(6, features, blocks, 1)
        self.e_block1 = _encoder(features, 2 * features, blocks, 2)
        self.e_block2 = _encoder(2 * features, 4 * features, blocks, 2)
        self.d_block1 = _decoder(4 * features, blocks, up_kernel)
        self.d_block2 = _decoder(2 * features, blocks, up_kernel)
        self.out_block = nn.Sequential(
            *(ResidualBlock(features) for _ in range(blocks)),
            nn.Conv2d(features, 3, _KERNEL, padding=_KERNEL // 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..1, sides multiples of 16 pixels, to the same."""
        restored = None
        for divisor in _DIVISORS:
            size = (x.shape[2] // divisor, x.shape[3] // divisor)
            blurred = x if divisor == 1 else _resize(x, size)
            coarser = blurred if restored is None else _resize(restored, size)
            restored = self.restore(torch.cat([blurred, coarser], dim=1))
        return restored  # type: ignore[return-value]

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """One scale.

        Args:
            x: NCHW, the blurred picture and what the coarser scale made of it; sides multiples of 4
                pixels.

        Returns:
            NCHW RGB with the same sides.
        """
        full = self.in_block(x)
        half = self.e_block1(full)
        quarter = self.e_block2(half)
        half = self.d_block1(quarter) + half
        return self.out_block(self.d_block2(half) + full)  # type: ignore[no-any-return]


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe an SRN state dict; see `Architecture.recognise`.

    Raises:
        SlsError: a scale other than 1 is asked for, or a key is missing or mis-shaped.
    """
    blocks = count_blocks(state, r"in_block\.(\d+)\.conv1\.weight")
    if not blocks or not any(key.startswith("e_block1.") for key in state):
        return None
    options = {
        "features": tensor_shape(state, "in_block.0.weight")[0],
        "blocks": blocks,
        "up_kernel": tensor_shape(state, f"d_block1.{blocks}.weight")[2],
    }
    found = choose_scale([1], scale)
    return Description("srn", options, found, 1.0, least_side=_MULTIPLE, multiple=_MULTIPLE)


ARCHITECTURE = Architecture(
    name="srn",
    paper="SRN, Tao et al., CVPR 2018",
    build=SRN,
    recognise=recognise,
)
