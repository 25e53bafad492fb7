"""CARN and CARN-M: cascading residual blocks.

Ahn et al., "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network", ECCV
2018. Keys are those of the authors' release.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import (
    Architecture,
    Description,
    StateDict,
    choose_scale,
    tensor_shape,
)
from sls_deploy.models.mean_shift import MeanShift

_UPSAMPLER = re.compile(r"upsample\.up([234])\..+")


class Fusion(nn.Module):
    """1x1 convolution and ReLU over all that came before."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs * features, features, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW with `inputs * features` channels to NCHW with `features`."""
        return self.body(x)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Residual block, in its plain or its efficient form.

    Args:
        features: channels.
        groups: groups of the 3x3 convolutions; the plain form has none.
        efficient: grouped 3x3 convolutions and a 1x1 convolution behind them.
    """

    def __init__(self, features: int, groups: int, *, efficient: bool) -> None:
        super().__init__()
        grouped = groups if efficient else 1
        layers = [
            nn.Conv2d(features, features, 3, padding=1, groups=grouped),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, padding=1, groups=grouped),
        ]
        if efficient:
            layers += [nn.ReLU(), nn.Conv2d(features, features, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        return torch.relu(self.body(x) + x)


class Cascade(nn.Module):
    """Three stages, each followed by a fusion of everything before it."""

    b1: nn.Module
    b2: nn.Module
    b3: nn.Module

    def __init__(self, features: int) -> None:
        super().__init__()
        self.c1 = Fusion(2, features)
        self.c2 = Fusion(3, features)
        self.c3 = Fusion(4, features)

    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The stages in order."""
        return self.b1, self.b2, self.b3

    def cascade(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        gathered = out = x
        for stage, fusion in zip(self.stages(), (self.c1, self.c2, self.c3), strict=True):
            gathered = torch.cat([gathered, stage(out)], dim=1)
            out = fusion(gathered)
        return out


class CascadingBlock(Cascade):
    """Cascade of residual blocks; CARN-M runs one block three times."""

    def __init__(self, features: int, groups: int, *, efficient: bool, shared: bool) -> None:
        super().__init__(features)
        self.shared = shared
        for name in ("b1",) if shared else ("b1", "b2", "b3"):
            self.add_module(name, ResidualBlock(features, groups, efficient=efficient))

    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The stages in order, one and the same where they are shared."""
        return (self.b1, self.b1, self.b1) if self.shared else super().stages()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW of the same shape."""
        return self.cascade(x)


class Upsampler(nn.Module):
    """Grouped convolution, ReLU and pixel shuffle; twice for x4."""

    def __init__(self, features: int, groups: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
            wide = features * factor**2
            layers.append(nn.Conv2d(features, wide, 3, padding=1, groups=groups))
            layers += [nn.ReLU(), nn.PixelShuffle(factor)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW to NCHW with sides times the scale."""
        return self.body(x)  # type: ignore[no-any-return]


class CARN(Cascade):
    """The whole network for one scale, input and output on 0..1.

    Args:
        features: channels.
        groups: groups of the upsampler and of efficient blocks.
        efficient: residual blocks in the efficient form, as in CARN-M.
        shared: each cascading block runs one residual block three times, as in CARN-M.
        scale: 2, 3 or 4.
        multi_scale: name the upsampler after its scale, as checkpoints of several scales do.

    Raises:
        SlsError: a scale other than 2, 3 and 4.
    """

    def __init__(
        self,
        *,
        features: int = 64,
        groups: int = 1,
        efficient: bool = False,
        shared: bool = False,
        scale: int = 4,
        multi_scale: bool = False,
    ) -> None:
        super().__init__(features)
        if scale not in (2, 3, 4):
            raise SlsError(f"CARN has no x{scale}", fix="Its scales are 2, 3 and 4.")
        self.sub_mean = nn.Sequential()
        self.sub_mean.add_module("shifter", MeanShift(1.0, -1))
        self.add_mean = nn.Sequential()
        self.add_mean.add_module("shifter", MeanShift(1.0, 1))
        self.entry = nn.Conv2d(3, features, 3, padding=1)
        for name in ("b1", "b2", "b3"):
            block = CascadingBlock(features, groups, efficient=efficient, shared=shared)
            self.add_module(name, block)
        self.upsample = nn.Sequential()
        name = f"up{scale}" if multi_scale else "up"
        self.upsample.add_module(name, Upsampler(features, groups, scale))
        self.exit = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB, 0..1, to the same with sides times the scale."""
        x = self.cascade(self.entry(self.sub_mean(x)))
        return self.add_mean(self.exit(self.upsample(x)))  # type: ignore[no-any-return]


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe a CARN or CARN-M state dict; see `Architecture.recognise`.

    Raises:
        SlsError: the scale asked for is not there, or a key is missing or mis-shaped.
    """
    if "entry.weight" not in state or "b1.b1.body.0.weight" not in state:
        return None
    features = tensor_shape(state, "entry.weight")[0]
    several = sorted({int(match[1]) for key in state if (match := _UPSAMPLER.fullmatch(key))})
    if several:
        chosen = choose_scale(several, scale)
        first = f"upsample.up{chosen}.body.0.weight"
        filters, inputs, *_ = tensor_shape(state, first)
    else:
        first = "upsample.up.body.0.weight"
        filters, inputs, *_ = tensor_shape(state, first)
        found = 3 if filters == 9 * features else 4 if "upsample.up.body.3.weight" in state else 2
        chosen = choose_scale([found], scale)
    if features % inputs:
        raise SlsError(f"{first} has {inputs} inputs, which do not divide {features} channels")
    options = {
        "features": features,
        "groups": features // inputs,
        "efficient": "b1.b1.body.4.weight" in state,
        "shared": not any(key.startswith("b1.b2.") for key in state),
        "scale": chosen,
        "multi_scale": bool(several),
    }
    return Description("carn", options, chosen, 1.0)


ARCHITECTURE = Architecture(
    name="carn",
    paper="CARN and CARN-M, Ahn et al., ECCV 2018",
    build=CARN,
    recognise=recognise,
    droppable=_UPSAMPLER,
)
