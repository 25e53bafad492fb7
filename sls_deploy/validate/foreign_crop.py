"""The crop of the user's pictures that tells in which form a file takes and gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sls_deploy.data.truth import TruthFolder
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures

_LOOKED_AT = 4
"""Pictures, spread over the folder, that a crop is looked for in."""
_PLACES = 3
"""Places along each side of a picture that are tried."""
_GREY = 2 / 255
"""Deviation of red from blue below which a crop has no colours to speak of."""
_TINT = np.array([1.0, 0.85, 0.7], np.float32).reshape(3, 1, 1)
"""What the colours of such a crop are multiplied by."""


class ProbeCrop:
    """Cuts a crop with much contrast and colour out of a folder of pictures.

    In black, or in grey, all forms of pictures are alike; a crop of grey is tinted.

    Args:
        truth: the pictures.
        side: height and width where any would do, in pixels.
    """

    def __init__(self, truth: TruthFolder, side: int) -> None:
        step = -(-len(truth.paths) // _LOOKED_AT)
        self._pictures = [truth.pair(path).degraded for path in truth.paths[::step]]
        self._side = side

    def __call__(self, size: tuple[int, int] | None) -> Pictures:
        """One picture, NCHW float32 on 0..1, of that height and width."""
        height, width = size or (self._side, self._side)
        crop = max(_crops(self._pictures, height, width), key=_liveliness)
        if float(_colour(crop).std()) >= _GREY:
            return np.ascontiguousarray(crop)
        tinted = crop.reshape(-1, *_TINT.shape[:1], height, width) * _TINT
        return (np.round(tinted.reshape(crop.shape) * 255) / 255).astype(np.float32)


def _crops(pictures: Sequence[Pictures], height: int, width: int) -> Iterator[Pictures]:
    for picture in pictures:
        filled = reflect(picture, height, width)
        rows, columns = filled.shape[2] - height, filled.shape[3] - width
        for place in range(_PLACES**2):
            top = rows * (place // _PLACES) // (_PLACES - 1)
            left = columns * (place % _PLACES) // (_PLACES - 1)
            yield filled[:, :, top : top + height, left : left + width]


def _liveliness(crop: Pictures) -> float:
    return float(crop.mean(axis=1).std() + _colour(crop).std())


def _colour(crop: Pictures) -> NDArray[np.float32]:
    return crop[:, 0] - crop[:, 2]
