"""What is measured on a pruned network of the accuracy table."""

from __future__ import annotations

import statistics
import time
from itertools import islice
from pathlib import Path

import numpy as np

from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.onnxruntime import open_session
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.metrics import psnr_y, to_uint8

_WARM_UP = 2


def mean_psnr(model: RestorationModel, folder: Path, every: int = 1) -> float:
    """Mean Y-PSNR in dB on a folder of ground truth, as `sls-deploy validate` measures it.

    Args:
        model: the network.
        folder: ground truth pictures.
        every: 1 takes all of them, k every k-th.

    Raises:
        SlsError: pictures that cannot be used, or an output that is not finite.
    """
    description, runner = model.description, TorchRunner(model)
    truth = TruthFolder(folder, Bicubic(description.scale), description.least_side)
    figures = []
    for pair in islice(truth, 0, None, every):
        degraded = (pair.lr.transpose(2, 0, 1)[None] / 255).astype(np.float32)
        restored = to_uint8(runner.run(degraded)[0].transpose(1, 2, 0))
        figures.append(psnr_y(restored, pair.hr, description.scale))
    return statistics.fmean(figures)


def milliseconds(models: list[RestorationModel], side: int = 160, repeats: int = 15) -> list[float]:
    """Median time of ONNX Runtime on one picture in fp32, one thread, the networks taking turns.

    Args:
        models: the networks.
        side: of the picture, in pixels.
        repeats: turns.
    """
    sessions = [open_session(to_bytes(to_onnx(model)), threads=1) for model in models]
    picture = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_WARM_UP + repeats):
        for session, row in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(["output"], {"input": picture})
            row.append(1000 * (time.perf_counter() - start))
    return [statistics.median(row[_WARM_UP:]) for row in times]
