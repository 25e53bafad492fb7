"""How wrong each candidate is on photographs, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report
from sls_deploy.runtime.byte_pictures import from_bytes
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.validate.metrics import luma, to_uint8

BLOCK = 8
"""Side of a block in input pixels. The error of a tile is the mean of its blocks', so one pass over
a photograph serves every tile that can be cut from it."""
_LARGEST = 512
"""Longest side of the part of a photograph that networks are run on, input pixels."""


@dataclass(frozen=True)
class Measured:
    """A part of a photograph, and the errors of all candidates on it."""

    picture: Picture
    """The input, uint8 HWC; sides are multiples of 8, channels RGB times the frames."""
    errors: NDArray[np.float32]
    """Candidates x rows x columns of blocks: mean squared errors on 0..1, of outputs rounded to 8
    bits, as they are saved."""

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.errors[0].size)


def measure(
    photos: Photos,
    runners: Sequence[Runner],
    colour: Literal["y", "rgb"],
    tile: int,
    tiles: int,
    task: str,
    report: Report,
) -> Iterator[Measured]:
    """Run all candidates on parts of the photographs, which hold `tiles` tiles together at most.

    Every photograph gives its share, in its order: a part around its middle.

    Args:
        photos: what to restore; each holds a tile at least.
        runners: the candidates.
        colour: what errors are of.
        tile: side of a tile, input pixels; a multiple of 8.
        tiles: how many tiles the parts hold at most, but for one of each photograph.
        task: what reports call it.
        report: told of each photograph.

    Raises:
        SlsError: a network cannot restore a part, or gives another size or values that are not
            finite.
    """
    left = tiles * tile**2
    # A thread for each network: those of one operator would wait by spinning on a busy machine.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in range(len(photos)):
            report(Progress(task, number, len(photos)))
            lr, hr = photos.pair(number)
            part, truth = _middle(lr, hr, photos.scale, tile, left / (len(photos) - number))
            left -= part.shape[0] * part.shape[1]
            given = from_bytes(part[None])
            judge = partial(_errors, given=given, truth=truth, colour=colour, scale=photos.scale)
            # The costliest come last, and are begun first.
            errors = list(pool.map(judge, reversed(runners)))[::-1]
            yield Measured(np.ascontiguousarray(part), np.stack(errors))
    report(Progress(task, len(photos), len(photos)))


def _middle(
    lr: Picture, hr: Picture, scale: int, tile: int, pixels: float
) -> tuple[Picture, Picture]:
    """The middle of a pair with as many pixels of the input, at least a tile, in whole blocks."""
    height, width = lr.shape[:2]
    shrink = min(1.0, (max(pixels, 0) / (height * width)) ** 0.5)
    sides = [
        min(max(int(side * shrink), tile), side, _LARGEST) // BLOCK * BLOCK
        for side in (height, width)
    ]
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    return (
        lr[top : top + sides[0], left : left + sides[1]],
        hr[top * scale : (top + sides[0]) * scale, left * scale : (left + sides[1]) * scale],
    )


def _errors(
    runner: Runner, given: Pictures, truth: Picture, colour: Literal["y", "rgb"], scale: int
) -> NDArray[np.float32]:
    """Mean squared error on 0..1 of each block that a candidate restores."""
    output = runner.run(given)
    if output.shape[2:] != truth.shape[:2]:
        size, right = (f"{shape[1]}x{shape[0]}" for shape in (output.shape[2:], truth.shape))
        what = f"gives {size}, where {right} is right"
        raise SlsError(what, runner.name, "Export the network again.")
    try:
        restored = to_uint8(output[0]).transpose(1, 2, 0)
    except SlsError as error:
        raise SlsError(error.what, runner.name, error.fix) from None
    if colour == "y":
        squares = (luma(restored) - luma(truth)) ** 2
    else:
        squares = ((restored.astype(np.float32) - truth) ** 2).mean(axis=2)
    side = BLOCK * scale
    rows, columns = (length // side for length in squares.shape)
    means = squares.reshape(rows, side, columns, side).mean(axis=(1, 3))
    errors: NDArray[np.float32] = (means / 255**2).astype(np.float32)
    return errors
