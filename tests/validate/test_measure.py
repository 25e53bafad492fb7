from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.bicubic import upscale
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.data.truth import TruthFolder
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures
from sls_deploy.validate.measure import PictureFigures, StageFigures, measure
from sls_deploy.validate.metrics import luma, psnr_y, ssim_y, to_uint8


class Stub:
    """Runs a function on the batch."""

    def __init__(self, name: str, function: Callable[[Pictures], Pictures]) -> None:
        self.name = name
        self.run = function

    def close(self) -> None:
        """Hold nothing."""


def shifted(by: float) -> Stub:
    return Stub(f"shifted {by:g}", lambda batch: batch + np.float32(by))


def bicubic(batch: Pictures) -> Pictures:
    picture = np.rint(batch[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    return (upscale(picture, 2).transpose(2, 0, 1)[None] / 255).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A part of a photograph."""
    write_image(tmp_path / "eye.png", sample_photos()["chelsea"][80:120, 140:190])
    return tmp_path


def test_bicubic_runner_gets_the_figures_of_bicubic(folder: Path) -> None:
    truth = TruthFolder(folder, Bicubic(2))
    runner = Stub("bicubic", bicubic)
    ((figures,),) = measure(truth, [runner], runner, 2)
    (pair,) = truth
    restored = upscale(pair.lr, 2)
    error = (luma(restored) - luma(pair.hr))[2:-2, 2:-2]
    assert figures.name == "eye.png"
    assert figures.psnr_y == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))
    assert figures.psnr_y == psnr_y(restored, pair.hr, 2) > 25
    assert figures.ssim_y == ssim_y(restored, pair.hr, 2)
    assert (figures.parity_db, figures.max_error) == (None, 0)


def test_parity_is_taken_before_rounding(folder: Path) -> None:
    """A shift of a thousandth is lost in 8 bits, and 60 dB in floating point."""
    same, moved = shifted(0), shifted(0.001)
    ((first, second),) = measure(TruthFolder(folder, Bicubic(1)), [same, moved], same, 1)
    assert first.parity_db is None
    assert second.parity_db == pytest.approx(60, abs=0.01)
    assert second.max_error == pytest.approx(0.001, rel=1e-3)
    assert second.psnr_y == first.psnr_y


def test_one_level_of_error_has_its_known_psnr(folder: Path) -> None:
    """One level of 255 is 219/255 of a level of luma."""
    same, moved = shifted(0), shifted(1 / 255)
    ((_, figures),) = measure(TruthFolder(folder, Bicubic(1)), [same, moved], same, 1)
    assert figures.psnr_y == pytest.approx(20 * np.log10(255 / (219 / 255)), abs=0.05)


def test_reference_may_stand_anywhere(folder: Path) -> None:
    same, moved = shifted(0), shifted(0.01)
    ((first, second),) = measure(TruthFolder(folder, Bicubic(1)), [same, moved], moved, 1)
    assert first.parity_db == pytest.approx(40, abs=0.01)
    assert second.parity_db is None


def test_stage_takes_means_and_the_worst_parity() -> None:
    rows = [
        PictureFigures("a", 30.0, 29.0, 0.8, 90.0, 1e-4, 0.25),
        PictureFigures("b", 34.0, 33.0, 0.9, None, 0.0, 0.5),
        PictureFigures("c", 32.0, 31.0, 1.0, 70.0, 2e-3, 0.25),
    ]
    stage = StageFigures.of("ONNX", rows)
    assert (stage.psnr_y, stage.parity_db, stage.max_error) == (32.0, 70.0, 2e-3)
    assert (stage.psnr_rgb, stage.ssim_y) == (pytest.approx(31), pytest.approx(0.9))
    assert (stage.seconds, stage.pictures) == (1.0, tuple(rows))


def test_stage_that_is_equal_everywhere_has_no_parity() -> None:
    rows = [PictureFigures(name, 30.0, 29.0, 0.8, None, 0.0, 0.1) for name in "ab"]
    assert StageFigures.of("ONNX", rows).parity_db is None


def test_deblurred_picture_is_measured_whole_in_all_colours(folder: Path) -> None:
    (pair,) = TruthFolder(folder, Bicubic(1))
    red = (pair.hr.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    red[:, 0, 0, 0] = 1 - red[:, 0, 0, 0].round()
    runner = Stub("one corner", lambda _: red)
    ((figures,),) = measure([pair], [runner], runner, 1)
    restored = to_uint8(red[0].transpose(1, 2, 0))
    error = restored.astype(float) - pair.hr
    assert figures.psnr_rgb == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))
    assert 40 < figures.psnr_rgb < 100


def test_exact_picture_counts_as_100_db(folder: Path) -> None:
    (pair,) = TruthFolder(folder, Bicubic(2))
    exact = (pair.hr.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    runner = Stub("exact", lambda _: exact)
    ((figures,),) = measure([pair], [runner], runner, 2)
    assert figures.psnr_y == figures.psnr_rgb == 100


def test_overflow_names_the_stage_and_the_picture(folder: Path) -> None:
    runner = Stub("ONNX fp16", lambda batch: bicubic(batch) * np.float32(np.nan))
    with pytest.raises(SlsError, match=r"ONNX fp16 on eye.png: .*not finite"):
        list(measure(TruthFolder(folder, Bicubic(2)), [runner], runner, 2))
