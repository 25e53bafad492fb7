"""Figures that were measured or published elsewhere, reached by what `validate` measures with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sls_deploy.config import ModelConfig
from sls_deploy.data.bicubic import upscale
from sls_deploy.data.degradation import Bicubic, Pairs
from sls_deploy.data.images import list_images
from sls_deploy.data.truth import TruthFolder
from sls_deploy.models.model import load_model
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import LayerTime, Pictures, Runner, Stopwatch
from sls_deploy.validate.figures import DENSE, Quality, StageId
from sls_deploy.validate.measure import Stage, measure, summarise
from sls_deploy.validate.metrics import luma, to_uint8
from sls_deploy.validate.protocol import protocol_of

NETWORKS = [
    ("rfdn_aim_x4", 4, {"Set5": 32.159, "Set14": 28.645}),
    ("carn_m_x234", 4, {"Set5": 31.883, "Set14": 28.417}),
    ("carn_m_x234", 2, {"Set5": 37.678, "Set14": 33.303}),
    ("rlfn_s_x2", 2, {"Set5": 38.047, "Set14": 33.622}),
    ("rlfn_s_x4", 4, {"Set5": 32.239, "Set14": 28.623}),
]
BICUBIC = [
    ("Set5", 2, 33.673, None), ("Set5", 4, 28.429, 0.8104), ("Set14", 2, 30.325, None),
    ("Set14", 4, 26.088, None),
    pytest.param("B100", 4, 25.961, 0.6675, marks=pytest.mark.slow),
    pytest.param("B100", 2, 29.560, None, marks=pytest.mark.slow),
]  # fmt: skip
"""PSNR, and SSIM of table 2 of ESRGAN (Wang et al., 2018), which other code measured; its Set14 is
not this one, with 26.00 dB."""
GOPRO = {"00.png": (23.58, 30.01), "01.png": (22.31, 27.55), "02.png": (20.28, 25.65)}
"""PSNR of the blurred pictures and of what DMPHN makes of them, given to 0.01 dB."""


class Function:
    """A runner that is one function of a picture of bytes."""

    name = DENSE
    note = ""

    def __init__(self, function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
        self._function = function

    def run(self, pictures: Pictures) -> Pictures:
        restored = self._function(to_uint8(pictures[0].transpose(1, 2, 0)))
        return (restored.transpose(2, 0, 1)[None] / 255).astype(np.float32)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        raise NotImplementedError

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        raise NotImplementedError

    def close(self) -> None:
        """Hold nothing."""


def mean_quality(truth: TruthFolder, runner: Runner) -> Quality:
    """Of a set, by the protocol of its scale."""
    stage = Stage(StageId(DENSE, "dense", "fp32", False, "", ""), runner)
    protocol = protocol_of(truth.scale, truth.degradation.note, truth=True, tile=None)
    rows = [row for (row,) in measure(truth, [stage], protocol.shave)]
    quality = summarise(stage.id, rows).quality
    assert quality is not None
    return quality


def network(path: Path, scale: int | None = None) -> Padded:
    model = load_model(path, ModelConfig(scale=scale))
    about = model.description
    return Padded(TorchRunner(model), about.least_side, about.multiple, about.scale)


@pytest.mark.parametrize(
    ("checkpoint", "scale", "benchmark", "decibels"),
    [
        pytest.param(
            checkpoint, scale, benchmark, decibels,
            marks=() if (checkpoint, benchmark) == ("rlfn_s_x4", "Set5") else pytest.mark.slow,
        )
        for checkpoint, scale, measured in NETWORKS
        for benchmark, decibels in measured.items()
    ],
)  # fmt: skip
def test_networks_reach_their_psnr(
    checkpoint: str, scale: int, benchmark: str, decibels: float, shared_data: Path
) -> None:
    truth = TruthFolder(shared_data / "bench" / benchmark, Bicubic(scale))
    runner = network(shared_data / "ckpt" / f"{checkpoint}.pth", scale)
    assert mean_quality(truth, runner).psnr_y == pytest.approx(decibels, abs=0.005)


@pytest.mark.parametrize(("benchmark", "scale", "decibels", "similarity"), BICUBIC)
def test_bicubic_reaches_its_figures(
    benchmark: str, scale: int, decibels: float, similarity: float | None, shared_data: Path
) -> None:
    truth = TruthFolder(shared_data / "bench" / benchmark, Bicubic(scale))
    quality = mean_quality(truth, Function(lambda picture: upscale(picture, scale)))
    assert quality.psnr_y == pytest.approx(decibels, abs=0.005)
    if similarity is not None:
        assert quality.ssim_y == pytest.approx(similarity, abs=0.001)


@pytest.mark.parametrize(
    "restored", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_gopro_has_the_psnr_of_all_colours(restored: bool, shared_data: Path) -> None:
    folder = shared_data / "bench" / "GoPro"
    pairs = Pairs(folder, list_images(folder), 1)
    truth = TruthFolder(folder, pairs, paths=pairs.truths)
    runner: Runner = Function(lambda picture: picture)
    if restored:
        runner = network(shared_data / "ckpt" / "dmphn_1_2_4_8_gopro.pth")
    stage = Stage(StageId(DENSE, "dense", "fp32", False, "", ""), runner)
    assert protocol_of(1, "", truth=True, tile=None).metric == "psnr_rgb"
    for (row,), (name, measured) in zip(measure(truth, [stage], 0), GOPRO.items(), strict=True):
        assert Path(row.name).name == name
        assert row.quality is not None
        assert row.quality.psnr_rgb == pytest.approx(measured[restored], abs=0.005)


def test_ssim_of_benchmarks_is_skimage_s(shared_data: Path) -> None:
    truth = TruthFolder(shared_data / "bench" / "Set5", Bicubic(4))
    stage = Stage(
        StageId(DENSE, "dense", "fp32", False, "", ""),
        Function(lambda picture: upscale(picture, 4)),
    )
    for pair, (row,) in zip(truth, measure(truth, [stage], 4), strict=True):
        assert pair.hr is not None
        assert row.quality is not None
        inner = np.s_[4:-4, 4:-4]
        x, y = (picture[inner] for picture in (upscale(pair.lr, 4), pair.hr))
        settings = {
            "data_range": 255, "gaussian_weights": True, "sigma": 1.5,
            "use_sample_covariance": False,
        }  # fmt: skip
        expected = structural_similarity(luma(x), luma(y), **settings)
        assert row.quality.ssim_y == pytest.approx(expected, abs=1e-6)
        colours = structural_similarity(
            x.astype(float), y.astype(float), channel_axis=2, **settings
        )
        assert row.quality.ssim_rgb == pytest.approx(colours, abs=1e-6)
