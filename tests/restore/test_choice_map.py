from __future__ import annotations

from pathlib import Path

import numpy as np

from sls_deploy.data.images import read_image
from sls_deploy.restore.choice_map import COLOURS, ChoiceMap
from sls_deploy.restore.tiles import Layout, TileSizes


def painted(path: Path, height: int, width: int, choices: list[int]) -> np.ndarray:
    layout = Layout(height, width, TileSizes(32, 4, 4))
    assert len(layout.tiles) == len(choices)
    picture = np.zeros((3, height, width), np.float32)
    written = ChoiceMap(path, ["skip", "b0.25", "b0.50"])
    for tile, pixels, choice in zip(layout.tiles, layout.cut(picture), choices, strict=True):
        written.paint(layout, tile, pixels, choice)
    return read_image(written.write())


def test_each_tile_has_its_networks_colour(tmp_path: Path) -> None:
    found = painted(tmp_path / "map.png", 40, 40, [0, 1, 2, 0])
    tinted = {tuple(found[row, column]) for row in (2, 37) for column in (2, 37)}
    wanted = {tuple(round(0.55 * value) for value in COLOURS[choice]) for choice in (0, 1, 2)}
    assert tinted == wanted
    assert (found[:40] > 0).any(axis=2).all()


def test_the_strip_below_shows_the_colours_in_the_order_of_cost(tmp_path: Path) -> None:
    found = painted(tmp_path / "map.png", 40, 40, [0, 1, 2, 0])
    assert found.shape == (44, 40, 3)
    assert [tuple(found[-1, column]) for column in (2, 20, 38)] == list(COLOURS[:3])


def test_a_large_picture_has_a_small_map(tmp_path: Path) -> None:
    layout = Layout(30, 5000, TileSizes(512, 4, 4))
    written = ChoiceMap(tmp_path / "map.png", ["skip", "b0.50"])
    for place, tile in enumerate(layout.tiles):
        written.paint(layout, tile, np.zeros((3, *layout.size), np.float32), place % 2)
    found = read_image(written.write())
    assert found.shape == (8 + 4, 1250, 3)
    assert (found[:8] > 0).any(axis=2).all()
