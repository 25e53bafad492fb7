from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.adapt.measuring import BLOCK, Measured, measure
from sls_deploy.adapt.skip import Skip
from sls_deploy.data.bicubic import Picture
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.images import list_images
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, silent
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.metrics import psnr_rgb, psnr_y, to_uint8


class Wrong(Skip):
    """Gives something else than it should."""

    name = "b0.50"

    def __init__(self, scale: int, output: Pictures) -> None:
        super().__init__(scale)
        self._output = output

    def run(self, pictures: Pictures) -> Pictures:
        return self._output


def enlarged(picture: Picture) -> Picture:
    """What the skip path makes of a picture, in 8 bits."""
    given = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return to_uint8(Skip(2).run(given)[0]).transpose(1, 2, 0)


def of(folder: Path, scale: int = 2) -> Photos:
    return Photos(list_images(folder), Bicubic(scale), 64, min_side=16 * scale)


def measured(photos: Photos, colour: str = "y", tiles: int = 1000) -> list[Measured]:
    return list(measure(photos, [Skip(photos.scale)], colour, 16, tiles, "measure", silent))  # type: ignore[arg-type]


@pytest.mark.parametrize(("colour", "psnr"), [("y", psnr_y), ("rgb", psnr_rgb)])
def test_the_mean_of_all_blocks_is_the_error_that_validation_measures(
    photos: Path, colour: str, psnr: object
) -> None:
    set_of = of(photos)
    for number, part in enumerate(measured(set_of, colour)):
        lr, hr = set_of.pair(number)
        assert np.array_equal(part.picture, lr)
        expected = psnr(enlarged(lr), hr, 0)  # type: ignore[operator]
        assert -10 * np.log10(part.errors[0].mean()) == pytest.approx(expected, abs=1e-4)


def test_a_block_has_the_error_of_its_own_pixels(photos: Path) -> None:
    set_of = of(photos)
    part = measured(set_of)[0]
    lr, hr = set_of.pair(0)
    side = 2 * BLOCK
    inner = np.s_[3 * side : 4 * side, 5 * side : 6 * side]
    expected = psnr_y(np.ascontiguousarray(enlarged(lr)[inner]), hr[inner], 0)
    assert -10 * np.log10(part.errors[0, 3, 5]) == pytest.approx(expected, abs=1e-4)


def test_photographs_share_the_tiles_asked_for(photos: Path) -> None:
    parts = measured(of(photos), tiles=32)
    assert {part.errors.shape[1:] for part in parts} == {(4, 4)}
    pairs = [of(photos).pair(number)[0] for number in range(len(parts))]
    assert all(
        np.array_equal(part.picture, lr[16:48, 16:48])
        for part, lr in zip(parts, pairs, strict=True)
    )


def test_every_photograph_gives_a_tile_at_least(photos: Path) -> None:
    assert {part.blocks for part in measured(of(photos), tiles=1)} == {4}


def test_each_photograph_is_reported(photos: Path) -> None:
    seen: list[Progress] = []
    list(measure(of(photos), [Skip(2)], "y", 16, 100, "measure", seen.append))
    assert [report.done for report in seen] == list(range(9))


def test_a_network_that_overflows_is_named(photos: Path) -> None:
    broken = Wrong(2, np.full((1, 3, 128, 128), np.nan, np.float32))
    with pytest.raises(SlsError, match=r"b0\.50: the picture has values that are not finite"):
        list(measure(of(photos), [broken], "y", 16, 1000, "measure", silent))


def test_a_network_of_another_scale_is_named(photos: Path) -> None:
    broken = Wrong(2, np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(SlsError, match=r"b0\.50: gives 64x64, where 128x128 is right"):
        list(measure(of(photos), [broken], "y", 16, 1000, "measure", silent))
