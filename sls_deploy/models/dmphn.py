"""DMPHN: deblurring in a hierarchy of patches, from eighths of the picture to the whole.

Zhang et al., "Deep Stacked Hierarchical Multi-Patch Network for Image Deblurring", CVPR 2019. Keys
are those of the authors' release, its encoders and decoders in one state dict. DMPHN(1-2-4-8) has
7,232,524 parameters; a picture of 1280x720 costs 916 GMACs.
"""

from __future__ import annotations

from collections import OrderedDict

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

_GREY = 0.5
_HEIGHT, _WIDTH = 2, 3
_DOWN = 4  # an encoder's input pixels for one of its output, along each side


class Residual(nn.Sequential):
    """Convolution, ReLU, convolution, added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        return x + super().forward(x)  # type: ignore[no-any-return, no-untyped-call]


def _encoder(features: int) -> nn.Sequential:
    """Picture to `4 * features` channels at a quarter of its sides."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for first, width in ((1, features), (5, 2 * features), (9, 4 * features)):
        stride = 1 if first == 1 else 2
        layers[f"layer{first}"] = nn.Conv2d(inputs, width, 3, stride, padding=1)
        layers[f"layer{first + 1}"] = Residual(width)
        layers[f"layer{first + 2}"] = Residual(width)
        inputs = width
    return nn.Sequential(layers)


def _decoder(features: int) -> nn.Sequential:
    """`4 * features` channels to a picture of four times their sides."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for first, width in ((13, 4 * features), (17, 2 * features), (21, features)):
        layers[f"layer{first}"] = Residual(width)
        layers[f"layer{first + 1}"] = Residual(width)
        if width > features:
            layers[f"layer{first + 3}"] = nn.ConvTranspose2d(width, width // 2, 4, 2, padding=1)
    layers["layer24"] = nn.Conv2d(features, 3, 3, padding=1)
    return nn.Sequential(layers)


def cut(x: torch.Tensor, axis: int) -> torch.Tensor:
    """NCHW to 2NCHW: the first halves of all along axis 2 or 3, then the second halves."""
    half = x.shape[axis] // 2
    if axis == _HEIGHT:
        return torch.cat([x[:, :, :half], x[:, :, half:]])
    return torch.cat([x[:, :, :, :half], x[:, :, :, half:]])


def join(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Undo `cut`."""
    half = x.shape[0] // 2
    return torch.cat([x[:half], x[half:]], dim=axis)


class DMPHN(nn.Module):
    """The whole network (figure 2), input and output on 0..1; the defaults are DMPHN(1-2-4-8).

    Level 1 restores the whole picture, level 2 its upper and lower half, level 3 quarters and level
    4 eighths in four rows of two. The patches of a level lie along the batch axis, which gives what
    one at a time gives in a third of the nodes.

    Args:
        features: channels at full resolution.
        levels: levels of the hierarchy, from 1.

    Raises:
        SlsError: no level.
    """

    def __init__(self, *, features: int = 32, levels: int = 4) -> None:
        super().__init__()
        if levels < 1:
            raise SlsError("DMPHN cannot do without levels", fix="Use levels of 1 or more.")
        self.levels = levels
        for level in range(1, levels + 1):
            self.add_module(f"encoder_lv{level}", _encoder(features))
        for level in range(1, levels + 1):
            self.add_module(f"decoder_lv{level}", _decoder(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..1, to the same; `side_multiple` says which sides there may be."""
        decoder = self.get_submodule("decoder_lv1")
        return decoder(self.encode(x - _GREY, 1)) + _GREY  # type: ignore[no-any-return]

    def encode(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Features of the patches of a level, with those of all finer levels.

        Args:
            x: NCHW RGB, -0.5..0.5, the patches of the level.
            level: 1 for whole pictures.

        Returns:
            NCHW with `4 * features` channels and a quarter of the sides.
        """
        encoder = self.get_submodule(f"encoder_lv{level}")
        if level == self.levels:
            return encoder(x)  # type: ignore[no-any-return]
        axis = _WIDTH if level % 2 == 0 else _HEIGHT
        finer = join(self.encode(cut(x, axis), level + 1), axis)
        restored = self.get_submodule(f"decoder_lv{level + 1}")(finer)
        return encoder(x + restored) + finer  # type: ignore[no-any-return]


def side_multiple(levels: int) -> int:
    """Pixels that height and width must be multiples of, so that all patches can be halved twice.

    The width needs only half of that at an even number of levels.
    """
    return int(_DOWN * 2 ** (levels // 2))


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe a DMPHN state dict; see `Architecture.recognise`.

    Raises:
        SlsError: a scale other than 1 is asked for, or a key is missing or mis-shaped.
    """
    levels = count_blocks(state, r"encoder_lv(\d+)\.layer1\.weight")
    if not levels or not any(key.startswith("decoder_lv1.") for key in state):
        return None
    features = tensor_shape(state, "encoder_lv1.layer1.weight")[0]
    found = choose_scale([1], scale)
    side = side_multiple(levels)
    options = {"features": features, "levels": levels}
    return Description("dmphn", options, found, 1.0, least_side=side, multiple=side)


ARCHITECTURE = Architecture(
    name="dmphn",
    paper="DMPHN, Zhang et al., CVPR 2019",
    build=DMPHN,
    recognise=recognise,
)
