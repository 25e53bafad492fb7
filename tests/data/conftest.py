"""A small folder of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.images import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures of noise, 41x50 to 48x50 pixels, named 0.png to 7.png."""
    generator = np.random.default_rng(0)
    for number in range(8):
        image = generator.integers(0, 256, (50, 41 + number, 3), dtype=np.uint8)
        write_image(tmp_path / "photos" / f"{number}.png", image)
    return tmp_path / "photos"
