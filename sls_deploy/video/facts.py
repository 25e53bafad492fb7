"""What is known of a video once its first frame is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.video.colour import Samples


@dataclass(frozen=True)
class Turn:
    """How stored frames are turned to stand upright."""

    transpose: bool = False
    """Whether rows become columns; done first."""
    flip_rows: bool = False
    """Whether the order of rows is reversed."""
    flip_columns: bool = False
    """Whether the order of columns is reversed."""

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """A frame [channels, height, width] as it is to be seen."""
        if self.transpose:
            pixels = pixels.swapaxes(1, 2)
        rows = slice(None, None, -1 if self.flip_rows else None)
        columns = slice(None, None, -1 if self.flip_columns else None)
        return np.ascontiguousarray(pixels[:, rows, columns])


@dataclass(frozen=True)
class VideoFacts:
    """What a writer has to know of the video that was read."""

    path: Path
    """The file."""
    stream: int
    """Place of the video stream that is restored among all streams of the file."""
    height: int
    """Upright height, pixels."""
    width: int
    """Upright width, pixels."""
    samples: Samples
    """How its frames stand for colours."""
    primaries: int
    """Number of its primaries in ITU-T H.273; 2 if it states none."""
    transfer: int
    """Number of its transfer function in ITU-T H.273; 2 if it states none."""
    aspect: Fraction | None
    """Width of an upright pixel over its height, if stated."""
    rate: Fraction
    """Frames for a second, on average."""
    time_base: Fraction
    """Seconds of one unit of its time stamps."""
    start: Fraction
    """Seconds at which the file begins, which are taken off every time stamp."""


def turn_of(matrix: bytes | None) -> Turn:
    """The turn that a display matrix asks for.

    Args:
        matrix: nine integers of 32 bits, as FFmpeg keeps them; None for no turn.

    Raises:
        SlsError: the matrix is not one of quarter turns and mirrors.
    """
    if matrix is None:
        return Turn()
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32)[:5])
    if a and d and not (b or c):
        return Turn(flip_rows=d < 0, flip_columns=a < 0)
    if b and c and not (a or d):
        return Turn(True, flip_rows=b < 0, flip_columns=c < 0)
    fix = "Turn it first, such as with `ffmpeg -i IN OUT.mkv`."
    raise SlsError("is to be shown at an angle that is not a quarter turn", fix=fix)
