from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.degradation import Bicubic, Frames
from sls_deploy.data.images import write_image
from sls_deploy.data.photos import Photos


def photos_of(folder: Path, cache_mib: int = 8) -> Photos:
    return Photos.from_folder(folder, Bicubic(2), cache_mib=cache_mib, min_side=16)


def test_a_batch_has_the_promised_form(folder: Path) -> None:
    lr, hr = CropSampler(photos_of(folder), patch=8, batch=5, seed=0).batch(0)
    assert (lr.shape, hr.shape) == ((5, 3, 8, 8), (5, 3, 16, 16))
    for tensor in (lr, hr):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert 0 <= tensor.min() < 0.3
        assert 0.7 < tensor.max() <= 1


def test_batches_depend_on_seed_and_step_alone(folder: Path) -> None:
    one = CropSampler(photos_of(folder), patch=8, batch=5, seed=3)
    history = [one.batch(step) for step in range(12)]
    resumed = CropSampler(photos_of(folder), patch=8, batch=5, seed=3).batch(11)
    assert all(torch.equal(a, b) for a, b in zip(history[11], resumed, strict=True))
    assert not torch.equal(history[10][0], history[11][0])
    other = CropSampler(photos_of(folder), patch=8, batch=5, seed=4).batch(11)
    assert not torch.equal(other[0], resumed[0])


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_shares_of_a_batch_make_up_the_whole_batch(folder: Path, parts: int) -> None:
    sampler = CropSampler(photos_of(folder), patch=8, batch=6, seed=3)
    whole = sampler.batch(5)
    for first in range(parts):
        share = sampler.batch(5, (first, parts))
        for part, all_of_it in zip(share, whole, strict=True):
            assert torch.equal(part, all_of_it[first::parts])


def test_a_batch_without_equal_shares_is_refused(folder: Path) -> None:
    sampler = CropSampler(photos_of(folder), patch=8, batch=6, seed=3)
    with pytest.raises(ValueError, match="6 crops have no 4 equal parts"):
        sampler.batch(0, (0, 4))


def test_a_damaged_file_found_earlier_or_now_gives_the_same_batch(folder: Path) -> None:
    path = folder / "5.png"
    path.write_bytes(path.read_bytes()[:2000])
    fresh, used = (CropSampler(photos_of(folder), 8, 16, seed=0) for _ in range(2))
    for step in range(6):
        used.batch(step)
    assert [skipped.path for skipped in used.photos.skipped] == [path]
    assert torch.equal(fresh.batch(6)[1], used.batch(6)[1])


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_input_and_truth_show_the_same_place(tmp_path: Path, scale: int) -> None:
    # Red tells the column and green the row, so the means of a crop tell where it lies.
    rows, columns = np.mgrid[0:120, 0:120].astype(np.uint8)
    write_image(tmp_path / "a.png", np.dstack((2 * columns, 2 * rows, rows * 0)))
    photos = Photos.from_folder(tmp_path, Bicubic(scale), cache_mib=8, min_side=20 * scale)
    lr, hr = CropSampler(photos, patch=20, batch=32, seed=0).batch(0)
    pooled = torch.nn.functional.avg_pool2d(hr, scale)
    assert (lr - pooled).abs().max() < 2.5 / 255


def test_all_flips_and_turns_occur(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:16, 0:16].astype(np.uint8)
    write_image(tmp_path / "a.png", np.dstack((8 * columns, 8 * rows, rows * 0)))
    _, hr = CropSampler(photos_of(tmp_path), patch=8, batch=64, seed=0).batch(0)
    places = ((0, 0), (0, 15), (15, 0))
    corners = {tuple(bool(c[k, y, x] > 0.2) for k in (0, 1) for y, x in places) for c in hr}
    assert len(corners) == 8


def test_all_places_of_a_photograph_occur(tmp_path: Path) -> None:
    columns = np.broadcast_to(np.arange(20, dtype=np.uint8)[None, :, None], (20, 20, 3))
    write_image(tmp_path / "a.png", columns.copy())
    photos = Photos.from_folder(tmp_path, Bicubic(1), cache_mib=1, min_side=16)
    lr, _ = CropSampler(photos, patch=16, batch=200, seed=0).batch(0)
    smallest = {round(crop.min().item() * 255) for crop in lr}
    assert smallest == {0, 1, 2, 3, 4}


def flat_photos(folder: Path, count: int) -> Photos:
    """Photographs of one level each, 5 of which fill a cache of 1 MiB."""
    for number in range(count):
        write_image(folder / f"{number:02}.png", np.full((240, 240, 3), 4 * number, np.uint8))
    return photos_of(folder, cache_mib=1)


def levels(batch: tuple[torch.Tensor, torch.Tensor]) -> set[int]:
    return {round(crop.mean().item() * 255) // 4 for crop in batch[0]}


def test_crops_come_from_a_pool_as_large_as_the_cache(tmp_path: Path) -> None:
    photos = flat_photos(tmp_path, count=20)
    assert photos.cached == 4
    sampler = CropSampler(photos, patch=8, batch=3, seed=0)
    assert len(set.union(*(levels(sampler.batch(step)) for step in range(4)))) <= 4


def test_the_pool_moves_through_all_photographs(tmp_path: Path) -> None:
    sampler = CropSampler(flat_photos(tmp_path, count=20), patch=8, batch=3, seed=0)
    seen = set.union(*(levels(sampler.batch(step)) for step in range(80)))
    assert seen == set(range(20))


def test_held_out_crops_are_always_the_same(folder: Path) -> None:
    one, other = held_out(photos_of(folder), 12, 8), held_out(photos_of(folder), 12, 8)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert (one[0].shape, one[1].shape) == ((12, 3, 8, 8), (12, 3, 16, 16))
    assert len({crop.numpy().tobytes() for crop in one[1]}) == 12


@pytest.mark.parametrize("count", [4, 10, 20])
def test_held_out_crops_spread_over_the_photographs(tmp_path: Path, count: int) -> None:
    crops = held_out(flat_photos(tmp_path, count=10), count, patch=8)
    assert len(levels(crops)) == min(count, 10)


def test_photographs_taken_for_a_smaller_patch_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="min_side 16 is below 9 \\* 2"):
        CropSampler(photos_of(folder), patch=9, batch=1, seed=0)
    with pytest.raises(ValueError, match="min_side 16 is below 9 \\* 2"):
        held_out(photos_of(folder), 1, patch=9)


def test_crops_hold_all_frames(folder: Path) -> None:
    photos = Photos.from_folder(folder, Frames(Bicubic(1), 3), cache_mib=8, min_side=16)
    sampled = CropSampler(photos, patch=16, batch=5, seed=0).batch(0)
    for inputs, truth in (sampled, held_out(photos, 5, patch=16)):
        assert (inputs.shape, truth.shape) == ((5, 9, 16, 16), (5, 3, 16, 16))
        assert torch.equal(inputs[:, 3:6], truth)
        assert not torch.equal(inputs[:, :3], truth)
