"""Stages with given figures, as measuring would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sls_deploy.validate.figures import (
    DENSE,
    SPARSE,
    Fidelity,
    PictureFigures,
    Quality,
    StageFigures,
    StageId,
)

NAMES = "abcdefgh"
"""Names of the pictures."""
IDS = {
    item.name: item
    for item in (
        StageId(DENSE, "dense", "fp32", in_bytes=False, previous="", reference=""),
        StageId(SPARSE, "sparse", "fp32", in_bytes=False, previous=DENSE, reference=""),
        StageId("ONNX fp32", "onnx", "fp32", in_bytes=False, previous=SPARSE, reference=SPARSE),
        StageId(
            "ONNX fp16", "onnx", "fp16", in_bytes=False, previous="ONNX fp32", reference=SPARSE
        ),
        StageId(
            "TensorRT fp16",
            "engine",
            "fp16",
            in_bytes=False,
            previous="ONNX fp16",
            reference=SPARSE,
        ),
    )
}
"""The stages of a flow."""


def stage(
    name: str | StageId,
    psnr: Sequence[float] | None,
    previous: Sequence[float | None] | None = None,
    reference: Sequence[float | None] | None = None,
) -> StageFigures:
    """A stage with those figures on pictures a, b, ...

    Args:
        name: one of `IDS`, or what it is.
        psnr: PSNR of Y, that of RGB being 9 dB lower; None without truth.
        previous: fidelity to the stage before; equal if left out.
        reference: fidelity to PyTorch; that to the stage before if left out.
    """
    about = IDS[name] if isinstance(name, str) else name
    count = len(psnr or previous or ())
    previous = previous or [None] * count
    reference = reference or previous
    pictures = [
        PictureFigures(
            name=NAMES[at],
            quality=Quality(psnr[at], psnr[at] - 9, 0.9, 0.9, None) if psnr else None,
            to_previous=Fidelity(previous[at], 0.1, 0.05) if about.previous else None,
            to_reference=Fidelity(reference[at], 0.1, 0.05) if about.reference else None,
            seconds=0.1,
        )
        for at in range(count)
    ]
    # Nobody but measuring reads the means.
    first = pictures[0]
    return StageFigures(
        about, first.quality, first.to_previous, first.to_reference, 0.1, tuple(pictures)
    )


def renamed(name: str, other: str, **changes: object) -> StageId:
    """One of `IDS` under another name, and changed."""
    return replace(IDS[name], name=other, **changes)  # type: ignore[arg-type]
