"""Does the exported file compute what PyTorch computes?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import get_args

import numpy as np

from sls_deploy.config import Precision, ValidateConfig
from sls_deploy.data.bicubic import downscale
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures, Runner

MIN_PARITY_DB: Mapping[Precision, float] = {
    precision: ValidateConfig().min_parity_db(precision) for precision in get_args(Precision)
}
"""Least PSNR of a picture to PyTorch, in dB, with which a file is handed over."""
MAX_PARITY_ERROR: Mapping[Precision, float] = {
    "fp32": 1e-3,
    "fp16": 0.02,
    "bf16": 0.1,
    "int8": 0.3,
}
"""Largest error of a single value, on 0..1, with which it is: what a PSNR does not see.

Measured: at most 1.9e-6, 0.0035 and 0.03 in fp32, fp16 and bf16 on networks of random weights,
whose outputs reach 3.6; on RFDN and RLFN x4 1.2e-6, 0.002, 0.02 and, in int8, 0.13.
"""
_REPORT = "The export is wrong: please report it."
_FIX: Mapping[Precision, str] = {
    "fp32": _REPORT,
    "fp16": "Export it in bf16 or in fp32 alone: --precision fp32.",
    "bf16": "Export it in fp16 or in fp32 alone: --precision fp32.",
    "int8": "Keep more layers in fp16 (export.int8_keep), or calibrate on pictures like yours "
    "(export.calibration).",
}
"""What to do about outputs that lie too far away."""

EQUAL_DB = 200.0
"""PSNR that stands for equal values, which JSON has no infinity for."""

_COMPARED = (
    (("chelsea",), (61, 47)),
    (("rocket",), (40, 64)),
    (("astronaut", "coffee", "rocket"), (45, 51)),
)
"""Photographs of a batch, and their height and width after downscaling: odd and even sizes, one
picture and three."""

_ONE_LEVEL = 1.5 / 255
"""Between one level of 8 bits and two."""


@dataclass(frozen=True)
class Batch:
    """Crops of photographs, downscaled as a network's input is."""

    names: tuple[str, ...]
    """Where each picture comes from."""
    pictures: Pictures
    """NCHW float32, RGB, 0..1; several frames lie along the channels."""


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs lie from PyTorch's."""

    psnr_db: float
    """PSNR over all output values, peak 1; 200 if they are equal."""
    lowest_db: float
    """PSNR of the picture where it is least."""
    max_error: float
    """Largest absolute difference, on 0..1."""
    place: str
    """Picture, channel, row and column of the largest difference."""
    pictures: int
    """Pictures compared."""


def comparison_batches(
    about: Description, static_shape: tuple[int, int, int, int] | None = None
) -> list[Batch]:
    """Real inputs of a network, of several sizes, to compare outputs on.

    Sides are what photographs give: run them `Padded` where the network takes only some.

    Args:
        about: the network.
        static_shape: the one input size of the graph, NCHW, which all pictures then have.
    """
    photos = sample_photos()
    if static_shape is not None:
        count, _, *sides = static_shape
        names = tuple(islice(cycle(photos), count))
        pictures = [_input(photos[name], about, (sides[0], sides[1])) for name in names]
        return [Batch(names, np.concatenate([reflect(item[None], *sides) for item in pictures]))]
    batches = []
    for names, size in _COMPARED:
        inputs = [_input(photos[name], about, size) for name in names]
        # At large scales small photographs give less.
        height, width = (min(item.shape[axis] for item in inputs) for axis in (1, 2))
        batches.append(Batch(names, np.stack([item[:, :height, :width] for item in inputs])))
    return batches


def compare(
    reference: Sequence[Pictures], runner: Runner, batches: Sequence[Batch], precision: Precision
) -> Parity:
    """Compare a runner with reference outputs, and refuse what lies too far away.

    Args:
        reference: PyTorch's output for each batch.
        runner: the exported file.
        batches: the inputs.
        precision: names the limits and stands in the error.

    Raises:
        SlsError: an output is not finite, or of another shape; the PSNR of a picture is below its
            limit, or the error of a value above it.
    """
    parity = measure(reference, runner, batches, precision)
    least, most = MIN_PARITY_DB[precision], MAX_PARITY_ERROR[precision]
    worst = f"{parity.max_error:.2g} at {parity.place}"
    what = ""
    if parity.lowest_db < least:
        what = (
            f"lies {parity.lowest_db:.1f} dB from PyTorch, less than {least:g}"
            f" (largest error {worst})"
        )
    elif parity.max_error > most:
        what = f"has an error of {worst}, more than {most:g} ({parity.psnr_db:.1f} dB from PyTorch)"
    if what:
        raise SlsError(what, f"the {precision} graph", _FIX[precision])
    return parity


def compare_bytes(
    reference: Sequence[Pictures], runner: Runner, batches: Sequence[Batch], precision: Precision
) -> Parity:
    """Compare a graph from bytes to bytes with what the graph of floats gives, rounded to bytes.

    They may differ by one level where 255 times the output lies next to a half: both round, and
    one of them in fp32.

    Args:
        reference: output of the graph of floats for each batch.
        runner: the graph of bytes.
        batches: the inputs, which are of 8 bits.
        precision: stands in the error.

    Raises:
        SlsError: it differs by more.
    """
    rounded = [_rounded(output) for output in reference]
    parity = measure(rounded, runner, batches, precision)
    if parity.max_error > _ONE_LEVEL:
        what = f"differs by {255 * parity.max_error:.0f} levels at {parity.place}"
        raise SlsError(what, f"the {precision} graph of bytes", _REPORT)
    return parity


def measure(
    reference: Sequence[Pictures], runner: Runner, batches: Sequence[Batch], precision: Precision
) -> Parity:
    """How far a runner's outputs lie from reference outputs; see `compare`.

    Raises:
        SlsError: an output is not finite, or of another shape.
    """
    where = f"the {precision} graph"
    squares, values, highest, largest, place = 0.0, 0, 0.0, 0.0, "nowhere"
    for expected, batch in zip(reference, batches, strict=True):
        output = runner.run(batch.pictures)
        if output.shape != expected.shape:
            what = f"gives {list(output.shape)} where PyTorch gives {list(expected.shape)}"
            raise SlsError(what, where, _REPORT)
        if not np.isfinite(output).all():
            what = f"gives NaN or infinity on {' and '.join(batch.names)}"
            raise SlsError(what, where, _FIX[precision])
        error = np.abs(output.astype(np.float64) - expected)
        squares, values = squares + float((error**2).sum()), values + error.size
        highest = max(highest, float((error**2).mean(axis=(1, 2, 3)).max()))
        if error.max() > largest:
            largest = float(error.max())
            index, channel, row, column = np.unravel_index(error.argmax(), error.shape)
            place = f"{batch.names[index]}, channel {channel}, row {row}, column {column}"
    return Parity(
        psnr_db=_psnr(squares / values),
        lowest_db=_psnr(highest),
        max_error=largest,
        place=place,
        pictures=sum(len(batch.names) for batch in batches),
    )


def _psnr(mean_square: float) -> float:
    """With a peak of 1, and within what JSON can say."""
    return round(min(-10 * math.log10(mean_square), EQUAL_DB), 2) if mean_square else EQUAL_DB


def _rounded(output: Pictures) -> Pictures:
    """A picture as 8 bits hold it, on 0..1."""
    levels = np.round(np.clip(output.astype(np.float64), 0, 1) * 255)
    return levels.astype(np.float32) / np.float32(255)


def _input(photo: np.ndarray, about: Description, size: tuple[int, int]) -> Pictures:
    """One input of `size` or less from the middle of a photograph: CHW float32.

    Each frame is the one before moved to the left by a pixel.
    """
    still = _crop(photo, about.scale, size)
    return np.concatenate([np.roll(still, -frame, axis=2) for frame in range(about.frames)])


def _crop(photo: np.ndarray, scale: int, size: tuple[int, int]) -> Pictures:
    """The middle of a photograph, downscaled to `size` or less: CHW float32."""
    height, width = (min(side * scale, have) for side, have in zip(size, photo.shape, strict=False))
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    small = downscale(photo[top : top + height, left : left + width], scale)
    return small.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
