from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.bicubic import downscale
from sls_deploy.data.degradation import Bicubic, Frames, Pairs
from sls_deploy.data.images import list_images, read_image, write_image
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError


def cut_short(path: Path) -> None:
    """Damage a picture so that its header still reads well."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def photos_of(folder: Path, cache_mib: int = 8, min_side: int = 32) -> Photos:
    return Photos.from_folder(folder, Bicubic(4), cache_mib, min_side)


def test_a_pair_is_the_photograph_and_its_bicubic_reduction(folder: Path) -> None:
    photos = photos_of(folder)
    lr, hr = photos.pair(6)
    np.testing.assert_array_equal(hr, read_image(folder / "6.png")[:48, :44])
    np.testing.assert_array_equal(lr, downscale(hr, 4))
    assert (len(photos), photos.skipped) == (8, [])


def test_a_pair_is_decoded_once(folder: Path) -> None:
    photos = photos_of(folder)
    first = photos.pair(0)
    assert photos.pair(0) is first


def test_too_small_and_unreadable_files_are_named(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"nothing")
    photos = photos_of(folder, min_side=43)
    assert len(photos) == 5
    assert [(skipped.path.name, skipped.reason) for skipped in photos.skipped] == [
        ("0.png", "41x50 is below 43 pixels"),
        ("1.png", "42x50 is below 43 pixels"),
        ("3.png", "cannot be read as a picture (unknown format)"),
    ]


def test_a_damaged_file_gives_way_to_the_next(folder: Path) -> None:
    for number in (2, 3, 7):
        cut_short(folder / f"{number}.png")
    photos = photos_of(folder)
    assert len(photos) == 8
    assert photos.pair(2) is photos.pair(4)
    assert photos.pair(7) is photos.pair(0)
    assert [skipped.path.name for skipped in photos.skipped] == ["2.png", "3.png", "7.png"]


def test_pairs_do_not_hang_on_the_order_of_reading(folder: Path) -> None:
    for number in (1, 4, 5):
        cut_short(folder / f"{number}.png")
    one, other = photos_of(folder), photos_of(folder)
    forward = [one.pair(index)[1] for index in range(8)]
    backward = [other.pair(index)[1] for index in reversed(range(8))][::-1]
    for left, right in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(left, right)
    assert {skipped.path for skipped in one.skipped} == {skipped.path for skipped in other.skipped}


def test_a_folder_of_files_too_small_is_refused(folder: Path) -> None:
    message = r"0\.png: none of 8 pictures can be used \(41x50 is below 96 pixels\)\. .* 96 pixels"
    with pytest.raises(SlsError, match=message):
        photos_of(folder, min_side=96)


def test_a_folder_of_damaged_files_is_refused(folder: Path) -> None:
    for path in folder.iterdir():
        cut_short(path)
    photos = photos_of(folder)
    with pytest.raises(SlsError, match="none of 8 pictures can be used"):
        photos.pair(5)
    with pytest.raises(SlsError, match="none of 8 pictures can be used"):
        photos.split(0.5)


def test_the_cache_stays_below_its_limit(tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / f"{number}.png", np.full((400, 500, 3), number, np.uint8))
    photos = photos_of(tmp_path, cache_mib=2)
    first = photos.pair(0)
    assert photos.cached == 3
    assert photos.pair(0) is first
    for index in (1, 2, 3):
        photos.pair(index)
    again = photos.pair(0)
    assert again is not first
    np.testing.assert_array_equal(again[1], first[1])


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.25, 2), (0.5, 4), (1.0, 7)])
def test_a_split_leaves_something_on_both_sides(folder: Path, share: float, count: int) -> None:
    photos = photos_of(folder)
    training, held_out = photos.split(share)
    assert (len(training), len(held_out)) == (8 - count, count)
    assert sorted(training.paths + held_out.paths) == photos.paths


def test_a_split_is_the_same_wherever_the_folder_lies(folder: Path) -> None:
    before = [path.name for path in photos_of(folder).split(0.25)[1].paths]
    moved = folder.rename(folder.with_name("elsewhere"))
    assert [path.name for path in photos_of(moved).split(0.25)[1].paths] == before


def test_a_split_takes_any_file_name(folder: Path) -> None:
    (folder / "0.png").rename(folder / os.fsdecode(b"\xff.png"))
    training, held_out = photos_of(folder).split(0.25)
    assert len(training) + len(held_out) == 8


def test_a_split_holds_out_good_photographs_only(folder: Path) -> None:
    chosen = photos_of(folder).split(0.25)[1].paths
    for path in chosen:
        cut_short(path)
    training, held_out = photos_of(folder).split(0.25)
    assert len(held_out) == 2
    assert not set(held_out.paths) & set(chosen)
    assert {skipped.path for skipped in training.skipped} == set(chosen)


def test_parts_of_a_split_add_to_one_list_of_skipped_files(folder: Path) -> None:
    photos = photos_of(folder)
    training, held_out = photos.split(0.25)
    cut_short(training.paths[0])
    training.pair(0)
    assert [skipped.path for skipped in held_out.skipped] == [training.paths[0]]
    assert photos.skipped is held_out.skipped


def test_a_single_good_photograph_stands_in_both_parts(folder: Path) -> None:
    for number in range(7):
        cut_short(folder / f"{number}.png")
    photos = photos_of(folder)
    training, held_out = photos.split(0.25)
    assert training is held_out is photos
    assert photos.pair(0) is photos.pair(7)


def paired(folder: Path) -> Pairs:
    """The folder as pairs: each photograph in sharp/, and upside down in blur/."""
    (folder / "sharp").mkdir()
    for path in list_images(folder):
        write_image(folder / "blur" / path.name, read_image(path)[::-1])
        path.rename(folder / "sharp" / path.name)
    return Pairs(folder, list_images(folder), scale=1)


def test_inputs_can_be_read_from_files(folder: Path) -> None:
    pairs = paired(folder)
    photos = Photos(pairs.paths, pairs, cache_mib=8, min_side=32)
    assert (len(photos), photos.scale, photos.skipped) == (8, 1, [])
    np.testing.assert_array_equal(photos.pair(3)[0], photos.pair(3)[1][::-1])
    assert photos.files == list_images(folder)
    assert photos.split(0.25)[1].files[0].parent.name == "blur"


def test_files_without_their_partner_are_named(folder: Path) -> None:
    paired(folder)
    (folder / "sharp" / "2.png").unlink()
    (folder / "blur" / "5.png").unlink()
    pairs = Pairs(folder, list_images(folder), scale=1)
    photos = Photos(pairs.paths, pairs, cache_mib=8, min_side=32)
    assert len(photos) == 6
    assert [(skipped.path.relative_to(folder).as_posix(), skipped.reason)
            for skipped in photos.skipped] == [
        ("blur/2.png", "has no sharp partner"),
        ("sharp/5.png", "has no degraded partner"),
    ]  # fmt: skip


def test_an_input_that_does_not_fit_gives_way_to_the_next(folder: Path) -> None:
    pairs = paired(folder)
    write_image(folder / "blur" / "1.png", np.zeros((50, 50, 3), np.uint8))
    cut_short(folder / "blur" / "4.png")
    photos = Photos(pairs.paths, pairs, cache_mib=8, min_side=32)
    assert photos.pair(1) is photos.pair(2)
    assert photos.pair(4) is photos.pair(5)
    assert [skipped.path.name for skipped in photos.skipped] == ["1.png", "4.png"]
    assert "is 50x50, its truth" in photos.skipped[0].reason


def test_the_cache_counts_all_frames(tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / f"{number}.png", np.full((400, 500, 3), number, np.uint8))
    photos = Photos.from_folder(tmp_path, Frames(Bicubic(1), 5), cache_mib=8, min_side=16)
    size = sum(picture.nbytes for picture in photos.pair(0))
    assert photos.cached == 8 * 2**20 // size
