"""Draws docs/pictures/dmphn.jpg: a blurred photograph, restored dense and pruned, and the truth.

    python benchmarks/deblurring_pictures.py RUN [OUT]

RUN is a run folder of a deblurring network. The photographs come with scikit-image; the blur is
along a line and adds up the file's levels, as in the data that published networks learnt from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sheets import beside, labelled, write_sheet

from sls_deploy.data.bicubic import Picture, crop_to_multiple
from sls_deploy.data.motion_blur import MotionBlur
from sls_deploy.data.samples import sample_photos
from sls_deploy.models.model import load_model
from sls_deploy.run import Run
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.metrics import psnr_rgb, to_uint8

_BLUR = MotionBlur(length=24, varying=False, noise=0, shake=0, blend="levels", seed=1)
_CROPS = {"coffee": (100, 215), "chelsea": (60, 120), "rocket": (40, 230)}
"""Photographs, with top and left of the crop that is shown, in pixels."""
_SIDE = 170


def restorers(run: Run) -> dict[str, Padded]:
    """The dense network of a run and each of its budgets."""
    wanted = run.config.model
    assert wanted.weights is not None  # noqa: S101 - a run has them
    models = {"dense": load_model(wanted.weights, wanted)}
    for budget in run.budgets("search"):
        path = run.folder("search", budget) / "weights.safetensors"
        models[f"budget {budget:g}"] = load_model(path, wanted)
    return {
        name: Padded(
            TorchRunner(model), model.description.least_side, model.description.multiple, 1
        )
        for name, model in models.items()
    }


def draw(run: Run) -> Picture:
    """One row for each form of the picture, one column for each photograph."""
    truths = {name: crop_to_multiple(sample_photos()[name], 1) for name in _CROPS}
    blurred = {name: _BLUR.degrade(truth, f"{name}.png") for name, truth in truths.items()}
    rows: dict[str, dict[str, Picture]] = {"blurred": blurred}
    for label, runner in restorers(run).items():
        rows[label] = {
            name: to_uint8(
                runner.run((picture.transpose(2, 0, 1)[None] / 255).astype(np.float32))[0]
            ).transpose(1, 2, 0)
            for name, picture in blurred.items()
        }
    sheets = []
    for label, pictures in [*rows.items(), ("truth", truths)]:
        scores = [psnr_rgb(pictures[name], truths[name], 0) for name in _CROPS]
        told = "" if label == "truth" else f": {np.mean(scores):.2f} dB"
        crops = [
            pictures[name][top : top + _SIDE, left : left + _SIDE]
            for name, (top, left) in _CROPS.items()
        ]
        sheets.append(labelled(beside(crops), label + told))
    return np.vstack(sheets)


def main() -> None:
    """Draw the run that the command names."""
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/pictures/dmphn.jpg")
    write_sheet(out, draw(Run.open(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
