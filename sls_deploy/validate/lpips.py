"""LPIPS: how alike two pictures look, by the features of a network (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sls_deploy.errors import SlsError, reason
from sls_deploy.files import hash_file

LEAST_SIDE = 31
"""Smallest side of a picture that AlexNet takes, pixels."""


class Lpips:
    """Measures LPIPS with AlexNet, as papers on restoration report it; lower is better.

    torchmetrics computes it and ships the weights that the paper learnt. Those of AlexNet itself
    torchvision fetches when they are asked for first; a machine without a network needs the file in
    the folder that an error names.

    Raises:
        SlsError: torchmetrics or torchvision is missing, or the weights of AlexNet cannot be had.
    """

    def __init__(self) -> None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
            from torchvision.models import AlexNet_Weights
        except Exception as error:  # beside a PyTorch of another version it raises anything
            what = f"needs torchmetrics and torchvision ({reason(error)})"
            fix = "Install them with `pip install 'sls-deploy[lpips]'`."
            raise SlsError(what, "LPIPS", fix) from None
        source = AlexNet_Weights.DEFAULT.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(source).name
        digits = file.stem.rpartition("-")[2]
        fix = f"Put {source} there; its SHA-256 begins with {digits}."
        if file.is_file() and not hash_file(file).startswith(digits):
            raise SlsError("is not AlexNet as torchvision has it, or a part of it", str(file), fix)
        try:
            self._metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
        except (OSError, RuntimeError) as error:  # no network, or a download that was cut off
            raise SlsError(f"cannot be downloaded ({reason(error)})", str(file), fix) from None

    def __call__(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """LPIPS of two pictures, 0 where they are equal.

        Args:
            a: picture, uint8 HWC RGB.
            b: picture of the same size.

        Raises:
            SlsError: the sizes differ, or a side is below `LEAST_SIDE`.
        """
        if a.shape != b.shape or min(a.shape[:2]) < LEAST_SIDE:
            sizes = " and ".join(f"{picture.shape[1]}x{picture.shape[0]}" for picture in (a, b))
            fix = f"Both need the same sides, of {LEAST_SIDE} pixels or more."
            raise SlsError(f"LPIPS cannot compare pictures of {sizes}", "", fix)
        with torch.no_grad():
            score = float(self._metric(_batch(a), _batch(b)))
        self._metric.reset()
        return score


def _batch(picture: NDArray[np.uint8]) -> torch.Tensor:
    """NCHW on 0..1."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None])).float() / 255
