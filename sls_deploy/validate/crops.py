"""Which pictures are worth looking at, and the part of them where stages differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import write_image
from sls_deploy.data.truth import Pair
from sls_deploy.files import slug
from sls_deploy.models.restoration import COLOURS
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.figures import Crop, Metric, StageFigures
from sls_deploy.validate.losses import picture_losses
from sls_deploy.validate.metrics import to_uint8

Why = Literal["worst", "median"]
SIDE = 128
"""Side of a crop in output pixels."""


def choose_pictures(stages: Sequence[StageFigures], metric: Metric) -> list[tuple[str, Why, str]]:
    """The picture where the last stage is worst, and the one in the middle.

    By what it lost against the first stage; where there is no truth by its fidelity.

    Args:
        stages: dense PyTorch first.
        metric: the figure whose loss counts.

    Returns:
        Name, why it was chosen, and in words what it lost. One alone if there is one picture.
    """
    first, last = stages[0], stages[-1]
    if first.quality and last.quality:
        lost = picture_losses(last, first, metric)
        told = {name: _told_loss(value) for name, value in lost.items()}
    else:
        figures = {item.name: item.to_reference or item.to_previous for item in last.pictures}
        levels = {
            name: math.inf if figure is None or figure.psnr_db is None else figure.psnr_db
            for name, figure in figures.items()
        }
        lost = {name: -level for name, level in levels.items()}
        against = last.stage.reference or last.stage.previous
        told = {name: _told_fidelity(level, against) for name, level in levels.items()}
    order = sorted(lost, key=lambda name: lost[name])
    worst, median = order[-1], order[(len(order) - 1) // 2]
    chosen: list[tuple[str, Why, str]] = [(worst, "worst", told[worst])]
    if len(order) > 1:
        chosen.append((median, "median", told[median]))
    return chosen


def write_crops(
    folder: Path,
    root: Path,
    pair: Pair,
    why: Why,
    told: str,
    outputs: Mapping[str, Pictures],
    side: int = SIDE,
) -> Crop:
    """Write a part of a picture as every stage restores it, beside its input and truth.

    It is where the last stage's squared error grew most over the first's; without truth, where
    both differ most.

    Args:
        folder: where the PNG files go; those of an earlier picture of that kind are replaced.
        root: what their paths are told from.
        pair: the picture.
        why: why it was chosen.
        told: what it lost, in words.
        outputs: what each stage gave of it, NCHW of one picture, by the stage's name, in order.
        side: side of the part in output pixels; smaller pictures are kept whole.

    Raises:
        SlsError: the disk refuses, or an output is NaN.
    """
    first, *_, last = outputs.values()
    error = _error(first, last, pair.hr)
    height, width = (min(side, size) for size in error.shape)
    top, left = where_most(error, height, width)
    scale = error.shape[0] // pair.lr.shape[0]
    part = (slice(top, top + height), slice(left, left + width))
    shown = {} if pair.hr is None else {"truth": pair.hr}
    shown["input"] = _enlarged(pair.lr, scale)
    shown |= {name: to_uint8(output[0].transpose(1, 2, 0)) for name, output in outputs.items()}
    files = {}
    for number, (name, picture) in enumerate(shown.items()):
        # The number tells stages apart whose names leave nothing else in a file's name.
        path = folder / ("-".join(filter(None, (why, str(number), slug(name)))) + ".png")
        write_image(path, np.ascontiguousarray(picture[part]))
        files[name] = path.relative_to(root).as_posix()
    return Crop(pair.name, why, told, top, left, height, width, files)


def where_most(values: NDArray[np.float64], height: int, width: int) -> tuple[int, int]:
    """The window with the largest sum; that in the middle if all are equal.

    Args:
        values: of shape [rows, columns].
        height: rows of the window, at most all.
        width: its columns.

    Returns:
        Its first row and column.
    """
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    sums[1:, 1:] = values.cumsum(0).cumsum(1)
    windows = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
        + sums[:-height, :-width]
    )  # fmt: skip
    if np.ptp(values) == 0:
        return (windows.shape[0] - 1) // 2, (windows.shape[1] - 1) // 2
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(row), int(column)


def _error(first: Pictures, last: Pictures, truth: Picture | None) -> NDArray[np.float64]:
    """What is looked for, at every place."""
    if truth is None:
        error = (last[0].astype(np.float64) - first[0]) ** 2
    else:
        right = truth.transpose(2, 0, 1) / 255
        error = (last[0] - right) ** 2 - (first[0] - right) ** 2
    return np.asarray(error.sum(0), np.float64)


def _enlarged(degraded: Picture, scale: int) -> Picture:
    """The middle frame, every pixel repeated."""
    start = degraded.shape[2] // COLOURS // 2 * COLOURS
    frame = degraded[:, :, start : start + COLOURS]
    return frame.repeat(scale, 0).repeat(scale, 1)


def _told_loss(lost: float) -> str:
    return f"loses {lost:.2f} dB" if lost >= 0 else f"gains {-lost:.2f} dB"


def _told_fidelity(level: float, against: str) -> str:
    return f"equals {against}" if math.isinf(level) else f"lies {level:.1f} dB from {against}"
