"""Pictures that are inputs themselves, without truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import read_image


@dataclass(frozen=True)
class Given:
    """Takes pictures as they are: without truth one can still compare what networks make of them.

    A network of several frames sees one picture again and again, as of a still camera.
    """

    scale: int
    """What the network enlarges by."""
    frames: int = 1
    """Pictures in an input, all the same."""

    @property
    def note(self) -> str:
        """How the input comes about."""
        note = "Input is the picture itself, and there is no truth"
        return f"{note}; it is repeated for all {self.frames} frames" if self.frames > 1 else note

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that an input is made from: the picture alone."""
        return (path,)

    def pair(self, path: Path) -> tuple[Picture, None]:
        """Input of a picture, height x width x 3 * frames, uint8, and no truth.

        Raises:
            SlsError: the file cannot be read as a picture.
        """
        return np.tile(read_image(path), (1, 1, self.frames)), None
