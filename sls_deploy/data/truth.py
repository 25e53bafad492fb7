"""Pictures to validate on: the network's input for each, and the truth where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.degradation import Source
from sls_deploy.data.given import Given
from sls_deploy.data.images import image_size, list_images
from sls_deploy.errors import SlsError

_WINDOW = 11
"""Side of SSIM's window in pixels, which must fit into a picture once it is shaved."""


@dataclass(frozen=True)
class Pair:
    """An input of the network and what it is to be restored to."""

    name: str
    """Path below the folder, such as 'baby.png'; unlike every other picture's."""
    lr: Picture
    """Input, uint8 HWC, its channels RGB times the frames."""
    hr: Picture | None
    """Truth, uint8 HWC RGB, cut to a multiple of the scale; None where there is none."""

    @property
    def degraded(self) -> NDArray[np.float32]:
        """The input as runners take it: a batch of one, NCHW float32 on 0..1, contiguous."""
        batch = np.divide(self.lr.transpose(2, 0, 1)[None], 255, dtype=np.float32)
        return np.ascontiguousarray(batch)


class TruthFolder:
    """Pairs of a folder of pictures, in the order of their names; read when they are asked for.

    Args:
        folder: pictures, also in folders below it.
        degradation: makes or finds the inputs.
        least_side: smallest side of an input in pixels that the network takes.
        paths: the truth files in the folder; all pictures if left out.

    Raises:
        SlsError: no such folder, none or damaged pictures, a file that lacks its partner, or one
            too small to measure: its sides must hold SSIM's window of 11 pixels after `scale`
            pixels are shaved all round, if it is truth, and those of its input `least_side`.
    """

    def __init__(
        self,
        folder: Path,
        degradation: Source,
        least_side: int = 1,
        paths: Sequence[Path] | None = None,
    ) -> None:
        self.folder, self.degradation, self.scale = folder, degradation, degradation.scale
        self.paths = list_images(folder) if paths is None else list(paths)
        self._shrunk = 1 if isinstance(degradation, Given) else self.scale
        least = least_side * self._shrunk
        if not isinstance(degradation, Given):
            least = max(least, _WINDOW + 2 * self.scale)
        self.files: list[Path] = []
        """Truth files and the files that their inputs are read from."""
        for path in self.paths:
            self.files += degradation.files(path)
            height, width = image_size(path)
            if min(height, width) // self._shrunk * self._shrunk < least:
                needed = -(-least // self._shrunk) * self._shrunk
                fix = f"Leave it out: both sides need {needed} pixels or more."
                raise SlsError(f"{width}x{height} is too small to measure", str(path), fix)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Pair]:
        return map(self.pair, self.paths)

    def input_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every input in pixels, before a camera's orientation is applied."""
        sizes = (image_size(path) for path in self.paths)
        return [(height // self._shrunk, width // self._shrunk) for height, width in sizes]

    def named(self, name: str) -> Pair:
        """The pair of that name.

        Raises:
            SlsError: there is none, or a file cannot be read any more.
        """
        for path in self.paths:
            if self._name(path) == name:
                return self.pair(path)
        raise SlsError("holds no picture of that name any more", f"{self.folder}: {name}")

    def pair(self, path: Path) -> Pair:
        """The pair of one of `paths`.

        Raises:
            SlsError: a file cannot be read any more.
        """
        return Pair(self._name(path), *self.degradation.pair(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
