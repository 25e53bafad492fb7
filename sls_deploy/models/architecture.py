"""What the registry knows of a network: how to recognise it and how to build it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn

from sls_deploy.errors import SlsError

StateDict = Mapping[str, torch.Tensor]
"""Weights by parameter name, as `Module.state_dict` gives them."""
Layout = Literal["stacked", "sequence", "separate"]


@dataclass(frozen=True)
class Description:
    """Everything about a network that its weights do not hold."""

    name: str
    """Name in the registry, such as 'rlfn'."""
    options: dict[str, Any]
    """Arguments of the architecture's `build`, all JSON values."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    input_range: float
    """The raw network's value of white: 1.0 or 255.0."""
    widths: dict[str, list[int]] = field(default_factory=dict)
    """Modules smaller than the architecture makes them: name to [outputs, inputs] of a convolution,
    or [channels] of a batch normalisation or PReLU."""
    least_side: int = 1
    """Smallest height and width of an input, in pixels."""
    multiple: int = 1
    """Number of pixels that height and width of an input must be multiples of."""
    frames: int = 1
    """Pictures that the network takes at once; it restores the middle one."""
    layout: Layout = "stacked"
    """How the raw network takes several frames: 'stacked' along the channels, 'sequence' as
    NTCHW, or 'separate' arguments."""
    output: int | str | None = None
    """Which of the raw network's outputs is the picture: place or key; None where it has one."""

    def to_json(self) -> str:
        """One line of JSON; what has a default stands in it only where it differs."""
        defaults = {item.name: item.default for item in fields(self)} | {"widths": {}}
        content = {key: value for key, value in asdict(self).items() if value != defaults[key]}
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry."""

    name: str
    """Name that users give, in lower case."""
    paper: str
    """Citation in one line."""
    build: Callable[..., nn.Module]
    """Makes the raw network, with fresh weights, from the options of a description."""
    recognise: Callable[[StateDict, int | None], Description | None]
    """Describes the network that a state dict belongs to at the scale asked for (None: the largest
    there is), or returns None where the state dict is another network's."""
    droppable: re.Pattern[str] | None = None
    """Keys that a checkpoint may hold beyond those of the network built, such as other scales."""
    light: bool = True
    """Whether it can be built on PyTorch's meta device: it computes nothing while it is built."""
    convert: Callable[[StateDict, Description], StateDict] | None = None
    """Brings a checkpoint's weights under the keys of the network built, where those differ."""


def tensor_shape(state: StateDict, key: str, rank: int = 4) -> tuple[int, ...]:
    """Shape of one tensor that recognition depends on.

    Raises:
        SlsError: the key is missing, or its tensor is empty or not of that rank.
    """
    if key not in state:
        raise SlsError(f"has no key {key}", fix="Give the whole state dict of the network.")
    shape = tuple(state[key].shape)
    if len(shape) != rank or 0 in shape:
        dimensions = "x".join(map(str, shape)) or "a single number"
        raise SlsError(f"{key} is {dimensions}, where {rank} dimensions are needed")
    return shape


def choose_scale(there: Sequence[int], asked: int | None) -> int:
    """The scale asked for, or the largest there is.

    Raises:
        SlsError: the scale asked for is not there; lists those that are.
    """
    if asked is None:
        return max(there)
    if asked not in there:
        known = ", ".join(f"x{scale}" for scale in sorted(there))
        raise SlsError(
            f"holds no weights for x{asked} (there: {known})", fix="Ask for a scale that is there."
        )
    return asked


def pixel_shuffle_scale(state: StateDict, key: str, channels: int = 3) -> int:
    """Scale of the pixel shuffle behind a convolution, from its filters: channels * scale^2.

    Raises:
        SlsError: the key is missing or its filters fit no scale.
    """
    filters = tensor_shape(state, key)[0]
    scale = math.isqrt(filters // channels)
    if filters != channels * scale * scale:
        raise SlsError(f"{key} has {filters} filters, which fit no scale")
    return scale


def count_blocks(state: StateDict, pattern: str) -> int:
    """Number of blocks: distinct first groups of `pattern` among the keys it matches in full."""
    matches = (re.fullmatch(pattern, key) for key in state)
    return len({match[1] for match in matches if match})
