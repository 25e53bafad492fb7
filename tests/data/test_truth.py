from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.bicubic import downscale
from sls_deploy.data.images import read_image, write_image
from sls_deploy.data.truth import TruthFolder
from sls_deploy.errors import SlsError


def test_pairs_come_in_the_order_of_names(folder: Path) -> None:
    truth = TruthFolder(folder, 3)
    pairs = list(truth)
    assert len(truth) == 8
    assert [pair.name for pair in pairs] == [f"{number}.png" for number in range(8)]
    np.testing.assert_array_equal(pairs[2].hr, read_image(folder / "2.png")[:48, :42])
    np.testing.assert_array_equal(pairs[2].lr, downscale(pairs[2].hr, 3))


def test_names_tell_the_folder_below(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "0.png").rename(folder / "a" / "0.png")
    assert "a/0.png" in [pair.name for pair in TruthFolder(folder, 2)]


def test_scale_one_gives_the_truth_as_input(folder: Path) -> None:
    pair = next(iter(TruthFolder(folder, 1)))
    np.testing.assert_array_equal(pair.lr, pair.hr)


def test_pictures_are_read_when_asked_for(folder: Path) -> None:
    truth = TruthFolder(folder, 2)
    path = folder / "1.png"
    path.write_bytes(path.read_bytes()[:1000])
    pairs = iter(truth)
    assert next(pairs).name == "0.png"
    with pytest.raises(SlsError, match=r"1\.png: cannot be read as a picture"):
        next(pairs)


def test_a_picture_too_small_to_measure_is_refused(folder: Path) -> None:
    write_image(folder / "9.png", np.zeros((19, 40, 3), np.uint8))
    message = r"9\.png: 40x19 is too small to measure\. .* need 20 pixels"
    with pytest.raises(SlsError, match=message):
        TruthFolder(folder, 4)


def test_the_least_size_is_accepted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    assert next(iter(TruthFolder(tmp_path, 4))).lr.shape == (5, 5, 3)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="holds no pictures"):
        TruthFolder(tmp_path, 2)
