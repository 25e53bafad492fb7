"""Ground truth to validate on: each picture and the network's input for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.degradation import Degradation
from sls_deploy.data.images import image_size, list_images
from sls_deploy.errors import SlsError

_WINDOW = 11
"""Side of SSIM's window in pixels, which must fit into a picture once it is shaved."""


@dataclass(frozen=True)
class Pair:
    """A picture and the network's input for it."""

    name: str
    """Path below the folder, such as 'baby.png'."""
    lr: Picture
    """Input, uint8 HWC, its channels RGB times the frames."""
    hr: Picture
    """Truth, uint8 HWC RGB, cut to a multiple of the scale."""


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
            pixels are shaved all round, and those of its input `least_side`.
    """

    def __init__(
        self,
        folder: Path,
        degradation: Degradation,
        least_side: int = 1,
        paths: Sequence[Path] | None = None,
    ) -> None:
        self.folder, self.degradation, self.scale = folder, degradation, degradation.scale
        self.paths = list_images(folder) if paths is None else list(paths)
        scale = self.scale
        least = max(_WINDOW + 2 * scale, least_side * scale)
        self.files: list[Path] = []
        """Truth files and the files that their inputs are read from."""
        for path in self.paths:
            self.files += degradation.files(path)
            height, width = image_size(path)
            if min(height - height % scale, width - width % scale) < least:
                fix = f"Leave it out: both sides need {-(-least // scale) * scale} pixels or more."
                raise SlsError(f"{width}x{height} is too small to measure", str(path), fix)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Pair]:
        for path in self.paths:
            yield Pair(path.relative_to(self.folder).as_posix(), *self.degradation.pair(path))
