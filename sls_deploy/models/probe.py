"""What a network does to the size of a picture, found by running it on small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError, reason
from sls_deploy.models.architecture import Description, Layout
from sls_deploy.models.restoration import COLOURS, RestorationModel, arrange

_SIDES = (64, 128, 256, 96, 168, 240)
"""Tried in turn until the network takes a picture of that side."""
_MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 56, 64)
_ABOUT = 40
"""Sides near this show whether a multiple is enough, in pixels."""


def probe(network: nn.Module, name: str, wanted: ModelConfig) -> Description:
    """Describe a network: scale, sizes, form of its frames, and which output is the picture.

    Args:
        network: the raw network.
        name: what the description calls it.
        wanted: what the user says of it.

    Raises:
        SlsError: it cannot take such pictures, or gives nothing that is a restored one.
    """
    network.eval()
    about = Description(name, dict(wanted.options), 1, float(wanted.input_range))
    about = replace(about, frames=wanted.frames, output=wanted.output)
    about, side = _first_run(network, about)
    model = RestorationModel(network, about)
    for multiple in _MULTIPLES:
        height = _odd_multiple(multiple, _ABOUT)
        if _fits(model, height, height + 2 * multiple):
            break
    else:
        multiple = side
    sides = range(multiple, side + 1, multiple)
    least = next((small for small in sides if _fits(model, small, small)), side)
    return replace(about, multiple=multiple, least_side=least)


def _first_run(network: nn.Module, about: Description) -> tuple[Description, int]:
    """Scale, layout and output of a network, and a side of a picture that it takes."""
    layouts: tuple[Layout, ...] = get_args(Layout) if about.frames > 1 else ("stacked",)
    why, unfit = "", None
    for side in _SIDES:
        for layout in layouts:
            trial = replace(about, layout=layout)
            try:
                with torch.no_grad():
                    result = network(*arrange(_picture(trial, side, side), trial))
            except Exception as error:  # whatever the network raises
                why = why or reason(error)
                continue
            try:
                output, picture = _picture_of(result, about)
            except SlsError as error:
                unfit = unfit or error
                continue
            scale = picture.shape[2] // side
            if picture.shape[2:] != (side * scale, side * scale) or not scale:
                size = "x".join(map(str, picture.shape[2:]))
                what = f"makes {size} of a picture of {side}x{side}, which is no whole scale"
                raise SlsError(what, about.name)
            return replace(trial, output=output, scale=scale), side
    if unfit:
        raise unfit
    shape = f"{COLOURS * about.frames} channels and {_SIDES[0]}x{_SIDES[0]} pixels"
    fix = "It must take RGB pictures, NCHW; for several frames set model.frames."
    raise SlsError(f"cannot take a picture of {shape} ({why})", about.name, fix)


def _picture_of(result: Any, about: Description) -> tuple[int | str | None, Tensor]:
    """Which part of the result is the picture: the one asked for, or the largest."""
    found = dict(_tensors(result))
    if about.output is not None and about.output not in found:
        there = ", ".join(repr(key) for key in found if key is not None) or "one tensor"
        what = f"returns nothing at {about.output!r} (there: {there})"
        raise SlsError(what, about.name, "model.output names the picture among several things.")
    if about.output is not None:
        found = {about.output: found[about.output]}
    pictures = {
        key: value for key, value in found.items() if value.dim() == 4 and value.shape[1] == COLOURS
    }
    if not pictures:
        shapes = ", ".join("x".join(map(str, value.shape)) for value in found.values())
        what = f"gives no picture of {COLOURS} channels ({shapes or type(result).__name__})"
        raise SlsError(what, about.name, "model.output names the picture among several things.")
    key = max(pictures, key=lambda item: pictures[item].shape[2:].numel())
    return key, pictures[key]


def _tensors(result: Any) -> Iterator[tuple[int | str | None, Tensor]]:
    if isinstance(result, Tensor):
        yield None, result
    elif isinstance(result, Mapping):
        yield from ((key, value) for key, value in result.items() if isinstance(value, Tensor))
    elif isinstance(result, (list, tuple)):
        yield from ((at, value) for at, value in enumerate(result) if isinstance(value, Tensor))


def _fits(model: RestorationModel, height: int, width: int) -> bool:
    about = model.description
    try:
        with torch.no_grad():
            shape = model(_picture(about, height, width)).shape
    except Exception:  # whatever the network raises
        return False
    return bool(shape == (1, COLOURS, height * about.scale, width * about.scale))


def _picture(about: Description, height: int, width: int) -> Tensor:
    return torch.zeros(1, COLOURS * about.frames, height, width)


def _odd_multiple(multiple: int, about: int) -> int:
    """An odd multiple that is at least `about`: no multiple of twice as much."""
    times = -(-about // multiple)
    return multiple * (times + (times % 2 == 0))
