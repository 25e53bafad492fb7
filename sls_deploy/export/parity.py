"""Does the exported file compute what PyTorch computes?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sls_deploy.config import Precision, ValidateConfig
from sls_deploy.data.bicubic import downscale
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.sizes import padded_side

_DEFAULTS = ValidateConfig()
MIN_PARITY_DB: dict[Precision, float] = {
    "fp32": _DEFAULTS.min_parity_fp32_db,
    "fp16": _DEFAULTS.min_parity_fp16_db,
}
"""Least PSNR to PyTorch, in dB, with which a file is handed over."""

_EQUAL_DB = 200.0
"""PSNR that stands for equal outputs, which JSON has no infinity for."""

_COMPARED = ((("chelsea",), (61, 47)), (("rocket",), (40, 64)), (("astronaut", "coffee"), (48, 56)))
"""Photographs of a batch, and their height and width after downscaling: odd and even sizes, one
picture and two."""

_MEASURED = (64, 64)
"""Height and width of the crops that activations are measured on."""


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
    max_error: float
    """Largest absolute difference, on 0..1."""
    place: str
    """Picture, channel, row and column of the largest difference."""
    pictures: int
    """Pictures compared."""


def comparison_batches(about: Description) -> list[Batch]:
    """Real inputs of a network, of several sizes, to compare outputs on.

    Sides are what photographs give: run them `Padded` where the network takes only some.
    """
    photos = sample_photos()
    return [
        Batch(names, np.stack([_input(photos[name], about, size) for name in names]))
        for names, size in _COMPARED
    ]


def measuring_batches(about: Description) -> list[Batch]:
    """One real input from each sample photograph, to measure activations on.

    Sides are padded to what the network takes.
    """
    least, multiple = about.least_side, about.multiple
    batches = []
    for name, photo in sample_photos().items():
        picture = _input(photo, about, _MEASURED)[None]
        height, width = (padded_side(side, least, multiple) for side in picture.shape[2:])
        batches.append(Batch((name,), reflect(picture, height, width)))
    return batches


def compare(
    reference: Sequence[Pictures], runner: Runner, batches: Sequence[Batch], precision: Precision
) -> Parity:
    """Compare a runner with reference outputs, and refuse what lies too far away.

    Args:
        reference: PyTorch's output for each batch.
        runner: the exported file.
        batches: the inputs.
        precision: names the threshold and stands in the error.

    Raises:
        SlsError: an output is not finite, or of another shape, or the PSNR is below the threshold.
    """
    where = f"the {precision} graph"
    squares, values, largest, place = 0.0, 0, 0.0, "nowhere"
    for expected, batch in zip(reference, batches, strict=True):
        output = runner.run(batch.pictures)
        if output.shape != expected.shape:
            what = f"gives {list(output.shape)} where PyTorch gives {list(expected.shape)}"
            raise SlsError(what, where, "The export is wrong: please report it.")
        if not np.isfinite(output).all():
            fix = "Export it in fp32 only: --precision fp32." if precision == "fp16" else ""
            raise SlsError(f"gives NaN or infinity on {' and '.join(batch.names)}", where, fix)
        error = np.abs(output.astype(np.float64) - expected)
        squares, values = squares + float((error**2).sum()), values + error.size
        if error.max() > largest:
            largest = float(error.max())
            index, channel, row, column = np.unravel_index(error.argmax(), error.shape)
            place = f"{batch.names[index]}, channel {channel}, row {row}, column {column}"
    psnr = -10 * math.log10(squares / values) if squares else _EQUAL_DB
    parity = Parity(
        psnr_db=round(min(psnr, _EQUAL_DB), 2),
        max_error=largest,
        place=place,
        pictures=sum(len(batch.names) for batch in batches),
    )
    if parity.psnr_db < MIN_PARITY_DB[precision]:
        what = (
            f"lies {parity.psnr_db:.1f} dB from PyTorch, less than {MIN_PARITY_DB[precision]:g}"
            f" (largest error {largest:.2g} at {place})"
        )
        fix = "Export it in fp32 only: --precision fp32." if precision == "fp16" else ""
        raise SlsError(what, where, fix)
    return parity


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
