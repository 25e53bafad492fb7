from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.bicubic import downscale
from sls_deploy.data.degradation import Bicubic, Frames, Pairs
from sls_deploy.data.given import Given
from sls_deploy.data.images import list_images, read_image, write_image
from sls_deploy.data.truth import TruthFolder
from sls_deploy.errors import SlsError


def test_pairs_come_in_the_order_of_names(folder: Path) -> None:
    truth = TruthFolder(folder, Bicubic(3))
    pairs = list(truth)
    assert len(truth) == 8
    assert [pair.name for pair in pairs] == [f"{number}.png" for number in range(8)]
    np.testing.assert_array_equal(pairs[2].hr, read_image(folder / "2.png")[:48, :42])
    np.testing.assert_array_equal(pairs[2].lr, downscale(pairs[2].hr, 3))


def test_names_tell_the_folder_below(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "0.png").rename(folder / "a" / "0.png")
    assert "a/0.png" in [pair.name for pair in TruthFolder(folder, Bicubic(2))]


def test_scale_one_gives_the_truth_as_input(folder: Path) -> None:
    pair = next(iter(TruthFolder(folder, Bicubic(1))))
    np.testing.assert_array_equal(pair.lr, pair.hr)


def test_pictures_are_read_when_asked_for(folder: Path) -> None:
    truth = TruthFolder(folder, Bicubic(2))
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
        TruthFolder(folder, Bicubic(4))


def test_the_least_size_is_accepted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    assert next(iter(TruthFolder(tmp_path, Bicubic(4)))).lr.shape == (5, 5, 3)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="holds no pictures"):
        TruthFolder(tmp_path, Bicubic(2))


def test_the_files_can_be_given(folder: Path) -> None:
    truth = TruthFolder(folder, Bicubic(2), paths=[folder / "3.png", folder / "1.png"])
    assert [pair.name for pair in truth] == ["3.png", "1.png"]


def test_inputs_can_be_read_from_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("sharp/a.png", "blur/a.png"):
        write_image(tmp_path / name, random.integers(0, 256, (20, 30, 3), np.uint8))
    pairs = Pairs(tmp_path, list_images(tmp_path), 1)
    truth = TruthFolder(tmp_path, pairs, paths=pairs.paths)
    assert truth.files == [tmp_path / "sharp" / "a.png", tmp_path / "blur" / "a.png"]
    (pair,) = truth
    assert pair.name == "sharp/a.png"
    np.testing.assert_array_equal(pair.lr, read_image(tmp_path / "blur" / "a.png"))
    np.testing.assert_array_equal(pair.hr, read_image(tmp_path / "sharp" / "a.png"))


def test_a_file_without_its_partner_is_refused(tmp_path: Path) -> None:
    for name in ("sharp/a.png", "blur/a.png", "blur/b.png"):
        write_image(tmp_path / name, np.zeros((20, 30, 3), np.uint8))
    pairs = Pairs(tmp_path, list_images(tmp_path), 1)
    with pytest.raises(SlsError, match=r"blur/b\.png: has no sharp partner\. Add it, or leave"):
        TruthFolder(tmp_path, pairs, paths=pairs.paths)


def test_an_input_may_hold_several_frames(folder: Path) -> None:
    pair = next(iter(TruthFolder(folder, Frames(Bicubic(1), 3))))
    np.testing.assert_array_equal(pair.lr[:, :, 3:6], pair.hr)
    assert pair.lr.shape[2] == 9


def test_the_side_of_an_input_that_a_network_takes_is_asked_for(folder: Path) -> None:
    TruthFolder(folder, Bicubic(2), least_side=20)
    with pytest.raises(SlsError, match=r"0\.png: 41x50 is too small .* need 42 pixels or more"):
        TruthFolder(folder, Bicubic(2), least_side=21)


def test_without_truth_pictures_are_inputs(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    write_image(tmp_path / "a.png", photo)
    truth = TruthFolder(tmp_path, Given(4))
    (pair,) = truth
    assert pair.hr is None
    np.testing.assert_array_equal(pair.lr, photo)
    assert (truth.scale, truth.files) == (4, [tmp_path / "a.png"])


def test_inputs_without_truth_must_be_as_large_as_the_network_takes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((7, 5, 3), np.uint8))
    TruthFolder(tmp_path, Given(4), least_side=5)
    with pytest.raises(SlsError, match=r"a\.png: 5x7 is too small .* need 6 pixels or more"):
        TruthFolder(tmp_path, Given(4), least_side=6)


def test_sizes_of_inputs_are_told_without_reading_them(folder: Path) -> None:
    sizes = [(50, 41 + number) for number in range(8)]
    assert TruthFolder(folder, Given(2)).input_sizes() == sizes
    shrunk = [(height // 2, width // 2) for height, width in sizes]
    truth = TruthFolder(folder, Bicubic(2))
    assert truth.input_sizes() == shrunk == [pair.lr.shape[:2] for pair in truth]


def test_a_picture_is_found_by_its_name(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "0.png").rename(folder / "a" / "1.png")
    truth = TruthFolder(folder, Bicubic(2))
    for name in ("1.png", "a/1.png"):
        pair = truth.named(name)
        assert pair.name == name
        np.testing.assert_array_equal(pair.hr, read_image(folder / name)[:50, : pair.hr.shape[1]])
    with pytest.raises(SlsError, match=r"b\.png: holds no picture of that name"):
        truth.named("b.png")
