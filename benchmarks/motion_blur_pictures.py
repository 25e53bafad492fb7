"""Draws the pictures of docs/motion_blur.md from photographs that come with scikit-image."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sheets import GAP, PAPER, beside, labelled, write_sheet

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.motion_blur import MotionBlur, camera_walk, encode, kernel, spread
from sls_deploy.data.samples import sample_photos

_LENGTH = 24.0
_SEED = 2
"""A seed whose blur is easy to see."""
_CROPS = ((10, 10), (100, 215), (210, 410))
"""Top and left of the three crops of the photograph, in pixels: left, middle, right."""
_SIDE = 180


def draw_kernels(count: int = 6, zoom: int = 4) -> Picture:
    """Ways of the camera, and below each the kernel that it becomes.

    Args:
        count: ways, side by side.
        zoom: picture pixels for one pixel of the kernels.
    """
    tiles = []
    half = int(_LENGTH * 0.8)
    for seed in range(count):
        walk = spread(camera_walk(np.random.default_rng(seed), axes=2), _LENGTH)
        tiles.append(np.vstack((_way(walk, half, zoom), _gap(zoom, half), _spot(walk, half, zoom))))
    return beside(tiles)


def draw_photographs() -> Picture:
    """Crops of a photograph: sharp, blurred alike everywhere, blurred while the camera rolls."""
    photo = sample_photos()["coffee"]
    rows = [("sharp", photo)]
    for label, varying in (("shift alone", False), ("shift and roll", True)):
        blur = MotionBlur(length=_LENGTH, varying=varying, seed=_SEED)
        rows.append((label, blur.degrade(photo, "coffee.png")))
    sheets = []
    for label, picture in rows:
        crops = [picture[top : top + _SIDE, left : left + _SIDE] for top, left in _CROPS]
        sheets.append(labelled(beside(crops), label))
    return np.vstack(sheets)


def _way(walk: NDArray[np.float64], half: int, zoom: int) -> Picture:
    """The walk as a line; twice as large and then halved, which smooths it."""
    side = (2 * half + 1) * zoom
    image = Image.new("RGB", (2 * side, 2 * side), (PAPER,) * 3)
    draw = ImageDraw.Draw(image)
    points = [tuple(point) for point in ((walk[:, ::-1] + half + 0.5) * 2 * zoom).tolist()]
    draw.line(points, fill=(30, 90, 160), width=4, joint="curve")
    for (x, y), colour in ((points[0], (20, 150, 60)), (points[-1], (200, 50, 30))):
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=colour)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def _spot(walk: NDArray[np.float64], half: int, zoom: int) -> Picture:
    """The kernel with its brightest pixel white, as a file shows it."""
    blur = kernel(walk)
    inside = np.zeros((1, 2 * half + 1, 2 * half + 1), np.float32)
    radius = len(blur) // 2
    kept = min(radius, half)
    cut = slice(radius - kept, radius + kept + 1)
    place = slice(half - kept, half + kept + 1)
    inside[0, place, place] = (blur / blur.max())[cut, cut]
    return encode(inside).repeat(3, 2).repeat(zoom, 0).repeat(zoom, 1)


def _gap(zoom: int, half: int) -> Picture:
    return np.full((GAP, (2 * half + 1) * zoom, 3), PAPER, np.uint8)


def main() -> None:
    """Write both pictures into the folder given, docs/pictures if none is."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    for name, picture in (
        ("motion_blur_kernels.png", draw_kernels()),
        ("motion_blur_photograph.jpg", draw_photographs()),
    ):
        write_sheet(folder / name, picture)


if __name__ == "__main__":
    main()
