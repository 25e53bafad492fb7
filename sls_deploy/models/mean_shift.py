"""Subtraction and addition of the training pictures' mean colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K on 0..1, as in the code of EDSR (Lim et al., CVPRW 2017)."""


class MeanShift(nn.Conv2d):
    """Adds a fixed colour to every pixel, by a 1x1 convolution that is never trained.

    It stays a layer of its own: the zero padding of the next convolution then stands for the mean
    colour, so folding it into that convolution would change the border.

    Args:
        input_range: the value of white, 1 or 255.
        sign: -1 subtracts the mean, 1 adds it.
    """

    def __init__(self, input_range: float, sign: int) -> None:
        super().__init__(3, 3, 1)
        # Computed by NumPy: networks are made without memory before their weights are read, and to
        # compute there PyTorch loads its compiler, which takes more than a second.
        mean = np.array(DIV2K_MEAN, np.float32) * np.float32(sign * input_range)
        weight = torch.tensor(np.eye(3)[..., None, None].tolist())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.tensor(mean.tolist()), requires_grad=False)


def recognised_range(bias: torch.Tensor) -> float:
    """Value of white, 1.0 or 255.0, from the magnitude of a mean shift's bias."""
    return 255.0 if float(bias.abs().max()) > 2 else 1.0
