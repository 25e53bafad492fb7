"""Sheets of crops for the pictures of docs/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import write_image

GAP = 6
"""Pixels between tiles."""
PAPER = 255
"""Grey level behind them."""


def beside(tiles: list[Picture]) -> Picture:
    """Tiles of one height in a row."""
    gap = np.full((tiles[0].shape[0], GAP, 3), PAPER, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, gap)][:-1])


def labelled(sheet: Picture, label: str) -> Picture:
    """A sheet with a line of text above it."""
    strip = Image.new("RGB", (sheet.shape[1], 24), (PAPER,) * 3)
    font = ImageFont.load_default(15)
    ImageDraw.Draw(strip).text((2, 3), label, fill=(0, 0, 0), font=font)
    return np.vstack((np.asarray(strip), sheet))


def write_sheet(path: Path, picture: Picture) -> None:
    """Write a picture and print what it is."""
    written = write_image(path, picture)
    height, width = picture.shape[:2]
    print(f"{written}: {width}x{height}, {written.stat().st_size / 1024:.0f} KB")
