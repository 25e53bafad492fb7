"""Figures of a validation as a real run has them, for the sample report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from sls_deploy.config import Precision
from sls_deploy.engine.evidence import Evidence
from sls_deploy.validate.figures import (
    DENSE,
    SPARSE,
    Crop,
    Culprit,
    Fidelity,
    Gate,
    Kind,
    Loss,
    PictureFigures,
    Protocol,
    Quality,
    StageFigures,
    StageId,
    Validation,
)

ENGINE = "TensorRT sm86-fp16"
PRUNING = {0.5: 0.021, 0.25: 0.164, 0.125: 0.541}
_STEPS = {"ONNX fp32": 0.0, "ONNX fp16": 0.0006, "ONNX int8": 0.0431, ENGINE: 0.0}
FOLDERS = {"Set5": 5, "B100": 12}
_STAGES: tuple[tuple[str, Kind, Precision, str], ...] = (
    (DENSE, "dense", "fp32", ""),
    (SPARSE, "sparse", "fp32", DENSE),
    ("ONNX fp32", "onnx", "fp32", SPARSE),
    ("ONNX fp16", "onnx", "fp16", "ONNX fp32"),
    ("ONNX int8", "onnx", "int8", "ONNX fp32"),
    (ENGINE, "engine", "fp16", "ONNX fp16"),
)
_CAUSES = ("", "pruning", "ONNX export", "fp16", "int8", "engine")
_FIDELITY = (None, 36.4, 118.2, 67.9, 44.1, 92.0)
DIGEST = "9f2c6a1be07d4c58a3e1f0b7d96c2e4853fa7710bd64c9e22a05f81c37e6d940"


def _pictures(folder: str) -> tuple[str, ...]:
    return tuple(f"{10101 + 977 * place}.png" for place in range(FOLDERS[folder]))


def _losses(budget: float, folder: str, *, whole: bool) -> Iterator[Loss]:
    totals = {DENSE: 0.0}
    for (name, _, _, previous), cause in zip(_STAGES[1:], _CAUSES[1:], strict=True):
        own = PRUNING[budget] * (0.8 if folder == "Set5" else 1) if name == SPARSE else _STEPS[name]
        totals[name] = totals[previous] + own
        value = totals[name] if whole else own
        spread = 0.12 * value + 0.0001
        yield Loss(
            stage=name,
            against=DENSE if whole else previous,
            cause="all of it" if whole else cause,
            mean_db=value,
            low_db=value - spread,
            high_db=value + spread,
            worst_picture=_pictures(folder)[2],
            worst_db=value * 2.4 + 0.0004,
        )


def _stages(budget: float, folder: str) -> Iterator[StageFigures]:
    lost = {loss.stage: loss.mean_db for loss in _losses(budget, folder, whole=True)}
    for (name, kind, precision, previous), near in zip(_STAGES, _FIDELITY, strict=True):
        reference = "" if kind in {"dense", "sparse"} else SPARSE
        db = (30.8 if folder == "Set5" else 27.58) - lost.get(name, 0.0)
        quality = Quality(db, db - 1.31, 0.742 + db / 400, 0.721 + db / 400, None)
        error = 10 ** (-(near or 0) / 20)
        fidelity = Fidelity(near, min(1.0, 9 * error), 3.4 * error) if near else None
        pictures = tuple(
            PictureFigures(
                picture,
                replace(quality, psnr_y=db + math.sin(place) * 2.1),
                fidelity,
                fidelity if reference else None,
                0.21,
            )
            for place, picture in enumerate(_pictures(folder))
        )
        yield StageFigures(
            StageId(name, kind, precision, False, previous, reference),
            quality,
            fidelity,
            fidelity if reference else None,
            0.21 * len(pictures),
            pictures,
        )


def _gates(budget: float, folder: str) -> Iterator[Gate]:
    worst = _pictures(folder)[2]
    for total in _losses(budget, folder, whole=True):
        found = "sensitivity of the search: alone it loses most of what was measured, 5.1e-05"
        culprit = Culprit(worst, "pruning", "block_1.c3_r", found)
        passed = total.mean_db <= 0.3
        blame = None if passed else culprit
        yield Gate(
            total.stage, "loss", "validate.max_loss_db", 0.3, total.mean_db, passed, worst, blame
        )
    limits = {"ONNX fp32": 80.0, "ONNX fp16": 50.0, "ONNX int8": 30.0, ENGINE: 50.0}
    for (name, _, precision, _), near in zip(_STAGES, _FIDELITY, strict=True):
        if name in limits:
            setting = f"validate.min_parity_{precision}_db"
            yield Gate(name, "fidelity", setting, limits[name], near, True, worst, None)


def _crops(budget: float, folder: str) -> Iterator[Crop]:
    names = ("truth", "input", *(name for name, *_ in _STAGES[:-1]))
    whys: tuple[tuple[str, str, float], ...] = (
        ("worst", _pictures(folder)[2], 2.4),
        ("median", _pictures(folder)[0], 1.0),
    )
    for why, picture, times in whys:
        stem = f"validation/b{budget:.3f}/{folder}/{why}"
        files = {name: f"{stem}-{name.replace(' ', '-')}.png" for name in names}
        told = f"loses {PRUNING[budget] * times:.3f} dB"
        yield Crop(picture, "worst" if why == "worst" else "median", told, 96, 64, 128, 128, files)


def validation(budget: float, folder: str, evidence: Evidence) -> Validation:
    """What was measured on a folder; budget 0.125 fails its gates."""
    gates = tuple(_gates(budget, folder))
    text = (
        "PSNR and SSIM of luma (ITU-R BT.601, 16 to 235) on pictures rounded to 8 bits, 4 pixels "
        "cut from every side. SSIM with an 11x11 Gaussian of 1.5, as in MATLAB."
    )
    return Validation(
        budget=budget,
        folder=f"data/{folder}",
        pictures=FOLDERS[folder],
        scale=4,
        protocol=Protocol("psnr_y", 4, "MATLAB bicubic, scale 1/4", 1024, text),
        stages=tuple(_stages(budget, folder)),
        losses=tuple(_losses(budget, folder, whole=False)),
        totals=tuple(_losses(budget, folder, whole=True)),
        not_run={"TensorRT sm86-int8": "it was built from another export; build again"},
        evidence={ENGINE: evidence},
        crops=tuple(_crops(budget, folder)),
        gates=gates,
        passed=all(gate.passed for gate in gates),
        hashes={name: DIGEST for name, *_ in _STAGES},
    )
