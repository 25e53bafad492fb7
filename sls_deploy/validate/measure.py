"""Quality and fidelity of one stage on a folder of pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sls_deploy.data.truth import Pair
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.validate.metrics import psnr, psnr_rgb, psnr_y, ssim_y, to_uint8

_HIGHEST = 100.0
"""PSNR in dB at which a picture counts as exact, so that one exact picture leaves a mean."""


@dataclass(frozen=True)
class PictureFigures:
    """One picture restored by one stage."""

    name: str
    """Path of the picture below its folder."""
    psnr_y: float
    """PSNR of luma to the truth, dB, on 8-bit pictures, shaved; at most 100."""
    psnr_rgb: float
    """The same over all three colours."""
    ssim_y: float
    """SSIM of luma to the truth."""
    parity_db: float | None
    """PSNR to the reference's floating-point output, dB; None where they are equal."""
    max_error: float
    """Largest difference from the reference's output, on 0..1."""
    seconds: float
    """Wall time of the inference."""


@dataclass(frozen=True)
class StageFigures:
    """A set of pictures restored by one stage."""

    name: str
    """What the stage is called."""
    psnr_y: float
    """Mean over the pictures, dB."""
    psnr_rgb: float
    """Mean over the pictures, dB."""
    ssim_y: float
    """Mean over the pictures."""
    parity_db: float | None
    """Lowest PSNR to the reference over the pictures, dB; None where all are equal."""
    max_error: float
    """Largest difference from the reference over all pictures, on 0..1."""
    seconds: float
    """Wall time of inference over all pictures."""
    pictures: tuple[PictureFigures, ...]
    """Each picture."""

    @classmethod
    def of(cls, name: str, pictures: Sequence[PictureFigures]) -> StageFigures:
        """Summarise the pictures of a stage."""
        parities = [figure.parity_db for figure in pictures if figure.parity_db is not None]
        return cls(
            name=name,
            psnr_y=float(np.mean([figure.psnr_y for figure in pictures])),
            psnr_rgb=float(np.mean([figure.psnr_rgb for figure in pictures])),
            ssim_y=float(np.mean([figure.ssim_y for figure in pictures])),
            parity_db=min(parities, default=None),
            max_error=max(figure.max_error for figure in pictures),
            seconds=round(sum(figure.seconds for figure in pictures), 3),
            pictures=tuple(pictures),
        )


def measure(
    pairs: Iterable[Pair], runners: Sequence[Runner], reference: Runner, scale: int
) -> Iterable[list[PictureFigures]]:
    """Restore each picture by every runner; one list of figures a picture, in runner order.

    Args:
        pairs: inputs and truths.
        runners: the stages, in the order of the flow.
        reference: one of `runners`, to whose output parity is measured.
        scale: as many pixels are shaved before comparing with the truth, at 1 none.
    """
    for pair in pairs:
        degraded = (pair.lr.transpose(2, 0, 1)[None] / 255).astype(np.float32)
        outputs = [_timed(runner, degraded) for runner in runners]
        expected = outputs[runners.index(reference)][0]
        yield [
            _figures(pair, runner, output, seconds, expected, scale)
            for runner, (output, seconds) in zip(runners, outputs, strict=True)
        ]


def _timed(runner: Runner, degraded: Pictures) -> tuple[Pictures, float]:
    start = time.perf_counter()
    output = runner.run(degraded)
    return output, time.perf_counter() - start


def _figures(
    pair: Pair, runner: Runner, output: Pictures, seconds: float, expected: Pictures, scale: int
) -> PictureFigures:
    try:
        picture = to_uint8(output[0].transpose(1, 2, 0))
    except SlsError as error:
        raise SlsError(error.what, f"{runner.name} on {pair.name}", error.fix) from None
    parity, shave = psnr(output, expected, peak=1), scale if scale > 1 else 0
    return PictureFigures(
        name=pair.name,
        psnr_y=min(psnr_y(picture, pair.hr, shave), _HIGHEST),
        psnr_rgb=min(psnr_rgb(picture, pair.hr, shave), _HIGHEST),
        ssim_y=ssim_y(picture, pair.hr, shave),
        parity_db=parity if math.isfinite(parity) else None,
        max_error=float(np.abs(output - expected).max()),
        seconds=round(seconds, 4),
    )
