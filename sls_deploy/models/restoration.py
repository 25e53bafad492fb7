"""The one form of every network: a picture, or a few frames, to a picture on 0..1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from sls_deploy.models.architecture import Description

COLOURS = 3
"""Channels of a frame: RGB."""


class RestorationModel(nn.Module):
    """Restores pictures on 0..1, whatever range the raw network works on.

    Args:
        network: the raw network.
        description: what it is.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        self.description = description

    def forward(self, x: Tensor) -> Tensor:
        """Pictures on 0..1 to restored ones, which are not clamped.

        Args:
            x: NCHW RGB; several frames lie along the channels.

        Returns:
            NCHW RGB, sides times the scale.
        """
        about = self.description
        if about.input_range != 1:
            x = x * about.input_range
        result: Tensor = pick_output(self.network(*arrange(x, about)), about.output)
        return result / about.input_range if about.input_range != 1 else result


@torch.no_grad()
def run_once(model: RestorationModel, pictures: Tensor) -> None:
    """Run a model, so that what it keeps for a size of picture is there before it is traced.

    Raises:
        ValueError: it gives what only a tracer can use: it kept values of an earlier trace.
    """
    if isinstance(model(pictures), FakeTensor):
        raise ValueError("it keeps values from one call to the next, and kept those of a trace")


def arrange(x: Tensor, about: Description) -> tuple[Tensor, ...]:
    """The arguments of the raw network for frames that lie along the channels."""
    if about.layout == "sequence":
        batch, _, height, width = x.shape
        return (x.view(batch, about.frames, COLOURS, height, width),)
    return torch.split(x, COLOURS, dim=1) if about.layout == "separate" else (x,)


def pick_output(result: Any, output: int | str | None) -> Any:
    """The picture among what a raw network returns."""
    return result if output is None else result[output]
