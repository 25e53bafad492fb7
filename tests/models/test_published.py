"""Published checkpoints reach the Y-PSNR that was measured for them elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sls_deploy.config import ModelConfig
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.models.model import load_model
from sls_deploy.validate.metrics import psnr_y, to_uint8

MEASURED = [
    ("rfdn_aim_x4", 4, {"Set5": 32.159, "Set14": 28.645}),
    ("carn_m_x234", 4, {"Set5": 31.883, "Set14": 28.417}),
    ("carn_m_x234", 2, {"Set5": 37.678, "Set14": 33.303}),
    ("rlfn_s_x2", 2, {"Set5": 38.047, "Set14": 33.622}),
    ("rlfn_s_x4", 4, {"Set5": 32.239, "Set14": 28.623}),
]


@pytest.mark.parametrize("benchmark", ["Set5", pytest.param("Set14", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("checkpoint", "scale", "measured"), MEASURED)
def test_psnr_is_within_0_005_db(
    benchmark: str, checkpoint: str, scale: int, measured: dict[str, float], shared_data: Path
) -> None:
    model = load_model(shared_data / "ckpt" / f"{checkpoint}.pth", ModelConfig(scale=scale))
    figures = []
    for pair in TruthFolder(shared_data / "bench" / benchmark, Bicubic(scale)):
        x = torch.from_numpy(pair.lr.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = model(x)[0].permute(1, 2, 0).numpy()
        figures.append(psnr_y(to_uint8(output), pair.hr, shave=scale))
    assert np.mean(figures) == pytest.approx(measured[benchmark], abs=0.005)
