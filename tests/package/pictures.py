"""Pictures for scripts, and what our own runtime makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from tests.package.networks import LEAST, MULTIPLE, SCALE

Image = NDArray[Any]


def noise(height: int, width: int, channels: int = 3) -> Image:
    shape = (height, width, channels)
    return np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)


def write_ppm(path: Path, image: Image, comment: str = "") -> Path:
    height, width, _ = image.shape
    header = f"P6\n{comment}{width} {height}\n255\n".encode()
    path.write_bytes(header + image.tobytes())
    return path


def read_ppm(path: Path) -> Image:
    magic, width, height, white, _ = path.read_bytes().split(maxsplit=4)
    assert (magic, white) == (b"P6", b"255")
    shape = (int(height), int(width), 3)
    levels = np.frombuffer(path.read_bytes()[-int(np.prod(shape)) :], np.uint8)
    return levels.reshape(shape)


def expected(graph: Path, image: Image) -> NDArray[np.float32]:
    """What our own runtime gives for bytes: height x width x colours, 0..1."""
    runner = Padded(OnnxRunner(graph), LEAST, MULTIPLE, SCALE)
    pictures = np.float32(image.transpose(2, 0, 1)[None] / np.float32(255))
    return runner.run(pictures)[0].transpose(1, 2, 0)


def to_levels(picture: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.rint(picture.clip(0, 1) * 255).astype(np.int64)
