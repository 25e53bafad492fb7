"""Ground truth to validate on: each picture and the input made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sls_deploy.data.bicubic import Picture, crop_to_multiple, downscale
from sls_deploy.data.images import image_size, list_images, read_image
from sls_deploy.errors import SlsError

_WINDOW = 11
"""Side of SSIM's window in pixels, which must fit into a picture once it is shaved."""


@dataclass(frozen=True)
class Pair:
    """A picture and the network's input for it."""

    name: str
    """Path below the folder, such as 'baby.png'."""
    lr: Picture
    """Input, uint8 HWC RGB: the truth shrunk by MATLAB's bicubic."""
    hr: Picture
    """Truth, uint8 HWC RGB, cut to a multiple of the scale."""


class TruthFolder:
    """Pairs of a folder of pictures, in the order of their names; read when they are asked for.

    Args:
        folder: pictures, also in folders below it.
        scale: factor between input and truth; 1 gives the truth as its own input.
        least_side: smallest side of an input in pixels that the network takes.

    Raises:
        SlsError: no such folder, none or damaged pictures, or one too small to measure: its
            sides must hold SSIM's window of 11 pixels after `scale` pixels are shaved all round,
            and those of its input `least_side`.
    """

    def __init__(self, folder: Path, scale: int, least_side: int = 1) -> None:
        self.folder, self.scale = folder, scale
        self.paths = list_images(folder)
        least = max(_WINDOW + 2 * scale, least_side * scale)
        for path in self.paths:
            height, width = image_size(path)
            if min(height - height % scale, width - width % scale) < least:
                fix = f"Leave it out: both sides need {-(-least // scale) * scale} pixels or more."
                raise SlsError(f"{width}x{height} is too small to measure", str(path), fix)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Pair]:
        for path in self.paths:
            hr = crop_to_multiple(read_image(path), self.scale)
            name = path.relative_to(self.folder).as_posix()
            yield Pair(name, downscale(hr, self.scale), hr)
