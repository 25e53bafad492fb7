"""Degradations that need nothing but the truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sls_deploy.data.bicubic import Picture, crop_to_multiple
from sls_deploy.data.images import read_image


class Synthesis(ABC):
    """Makes the input of a network from the truth; see `Degradation`."""

    scale: int
    """Truth pixels for one input pixel, along each side."""
    frames = 1
    """Pictures in an input."""

    @property
    @abstractmethod
    def note(self) -> str:
        """How the input comes about, with all settings, in a sentence without a full stop."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files that a pair is made from: the truth alone."""
        return (path,)

    def pair(self, path: Path) -> tuple[Picture, Picture]:
        """Input and truth of a truth file, uint8 HWC RGB.

        Raises:
            SlsError: the file cannot be read as a picture.
        """
        truth = crop_to_multiple(read_image(path), self.scale)
        return self.degrade(truth, path.name), truth

    @abstractmethod
    def degrade(self, truth: Picture, name: str) -> Picture:
        """Input of a picture whose sides the scale divides, uint8 HWC RGB.

        Args:
            truth: uint8 HWC RGB.
            name: what randomness follows from.
        """
