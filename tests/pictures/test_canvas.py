from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.errors import SlsError
from sls_deploy.pictures.canvas import Canvas


def tiles(height: int, width: int, side: int) -> list[tuple[int, int, int, int]]:
    return [
        (top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    side=st.integers(1, 70),
    channels=st.sampled_from([1, 3]),
    bits=st.sampled_from([8, 16]),
    in_memory=st.sampled_from([0, 2**20]),
    data=st.data(),
)
def test_tiles_in_any_order_make_the_rounded_picture(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    side: int,
    channels: Literal[1, 3],
    bits: Literal[8, 16],
    in_memory: int,
    data: st.DataObject,
) -> None:
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 1 << bits, (height, width, channels))
    off = rng.uniform(-0.4, 0.4, levels.shape)  # rounded away, and clipped at both ends
    pixels = np.float32((levels + off) / ((1 << bits) - 1)).transpose(2, 0, 1)
    pixels = pixels.repeat(3 // channels, 0)
    folder = tmp_path_factory.getbasetemp()
    with Canvas(height, width, channels, bits, folder, in_memory) as canvas:
        for top, left, tall, wide in data.draw(st.permutations(tiles(height, width, side)[:200])):
            canvas.put(top, left, pixels[:, top : top + tall, left : left + wide])
        for top, left, tall, wide in tiles(height, width, side)[:200]:
            np.testing.assert_array_equal(
                canvas.raster.read(top, left, tall, wide),
                levels[top : top + tall, left : left + wide],
            )


def test_grey_is_the_mean_of_the_colours(tmp_path: Path) -> None:
    with Canvas(1, 1, 1, 8, tmp_path) as canvas:
        canvas.put(0, 0, np.float32([0.2, 0.4, 0.9]).reshape(3, 1, 1) * 100 / 255)
        assert canvas.raster.read(0, 0, 1, 1).item() == 50


@pytest.mark.parametrize("value", [np.inf, -np.inf, 7.0, -7.0])
def test_values_out_of_range_are_clipped(tmp_path: Path, value: float) -> None:
    with Canvas(1, 1, 3, 16, tmp_path) as canvas:
        canvas.put(0, 0, np.full((3, 1, 1), value, np.float32))
        assert (canvas.raster.read(0, 0, 1, 1) == (65535 if value > 0 else 0)).all()


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_tile_that_sticks_out_is_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    with Canvas(4, 4, 3, 8, tmp_path) as canvas, pytest.raises(ValueError, match="not inside"):
        canvas.put(*place, np.zeros((3, 2, 2), np.float32))


def test_a_scratch_file_has_no_name_and_its_folder_is_made(tmp_path: Path) -> None:
    with Canvas(50, 50, 3, 8, tmp_path / "new" / "folder", in_memory=0):
        assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlsError, match=r"file: cannot be written \(.*\)\. Free some space"):
        Canvas(50, 50, 3, 8, tmp_path / "file", in_memory=0)


def test_more_than_a_file_may_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    script = """
import pathlib, resource, signal, sys
from sls_deploy.errors import SlsError
from sls_deploy.pictures.canvas import Canvas
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    Canvas(1000, 1000, 3, 8, pathlib.Path(sys.argv[1]), in_memory=0)
except SlsError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in run.stdout
    assert run.stderr == ""


def test_a_large_canvas_takes_little_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Canvas(12_000, 12_000, 3, 8, tmp_path) as canvas:  # 432 MB
        tile = np.full((3, 1000, 1000), 0.5, np.float32)
        for top in range(0, 12_000, 1000):
            canvas.put(top, top, tile)
        assert (canvas.raster.read(11_500, 11_500, 2, 2) == 128).all()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # KiB
