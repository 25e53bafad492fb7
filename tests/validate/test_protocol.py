from __future__ import annotations

import pytest

from sls_deploy.validate.metrics import psnr_rgb, psnr_y
from sls_deploy.validate.protocol import headline, protocol_of

NOTE = "Input made by MATLAB's bicubic"


def test_super_resolution_is_measured_on_shaved_luma() -> None:
    protocol = protocol_of(4, NOTE, truth=True, tile=None)
    assert (protocol.metric, protocol.shave, protocol.tile) == ("psnr_y", 4, None)
    assert protocol.input == NOTE
    for part in (f"{NOTE}. ", "4 pixels shaved", "PSNR of Y, as papers on super-resolution"):
        assert part in protocol.text


def test_deblurring_is_measured_on_whole_colours() -> None:
    protocol = protocol_of(1, NOTE, truth=True, tile=None)
    assert (protocol.metric, protocol.shave) == ("psnr_rgb", 0)
    for part in ("nothing shaved", "PSNR of RGB, as papers on deblurring"):
        assert part in protocol.text


def test_without_truth_nothing_is_said_of_quality() -> None:
    text = protocol_of(4, NOTE, truth=False, tile=None).text
    assert "There is no truth" in text
    assert "Fidelity" in text
    for word in ("SSIM", "shaved", "LPIPS", "headline"):
        assert word not in text


@pytest.mark.parametrize("tile", [64, 1024])
def test_tiles_are_told(tile: int) -> None:
    protocol = protocol_of(2, NOTE, truth=True, tile=tile)
    assert protocol.tile == tile
    assert f"more than {tile}x{tile} input pixels" in protocol.text
    assert "tiles" not in protocol_of(2, NOTE, truth=True, tile=None).text


def test_headline_is_the_name_of_a_metric() -> None:
    known = {function.__name__ for function in (psnr_y, psnr_rgb)}
    assert {headline(scale) for scale in (1, 2, 3, 4)} == known
