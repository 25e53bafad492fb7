"""The protocol of the papers, and the sentences that name it."""

from __future__ import annotations

from sls_deploy.validate.figures import Metric, Protocol

_QUALITY = (
    "Outputs are clipped to 0..1, multiplied by 255 and rounded to 8 bits; grey pictures count as "
    "RGB of three equal channels; {shaved} shaved from every side. PSNR is 10 log10(255^2 / mean "
    "squared difference): of Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (ITU-R BT.601, not "
    "rounded), and of all values of R, G and B together. SSIM as in MATLAB (Gaussian window of 11, "
    "sigma 1.5, K1 0.01, K2 0.03, only places where the whole window fits), of Y, and of RGB as "
    "the mean over the channels, as in BasicSR. LPIPS, where it is given, is AlexNet's, on the "
    "same shaved pictures. Figures of a set are means over its pictures; an exact one counts as "
    "100 dB. The headline is PSNR of {headline}, as papers on {task} report it."
)
_NO_QUALITY = "There is no truth: no figure says how good a picture is, stages are only compared."
_FIDELITY = (
    "Fidelity compares the outputs of two stages before clipping and rounding, over the whole "
    "picture: PSNR with peak 1, the largest and the 99.9th percentile of the absolute differences; "
    "of a set the worst of each. ONNX Runtime's CPU provider computes fp16 graphs in fp32 inside; "
    "proof.json has their fidelity with every activation rounded. It has no bf16: such graphs run "
    "in fp32 with every value rounded to bf16."
)
_TILES = (
    "Pictures of more than {tile}x{tile} input pixels, or larger than an engine takes, are "
    "restored in overlapping tiles, the same for every stage."
)


def headline(scale: int) -> Metric:
    """The figure that papers report: luma for super-resolution, all colours for deblurring."""
    return "psnr_y" if scale > 1 else "psnr_rgb"


def protocol_of(scale: int, degradation_note: str, *, truth: bool, tile: int | None) -> Protocol:
    """How figures are measured.

    Super-resolution is measured on Y with as many pixels shaved as the scale (EDSR, RCAN, BasicSR's
    options), deblurring on whole RGB pictures (GoPro's papers).

    Args:
        scale: output pixels for one input pixel, along each side.
        degradation_note: how the inputs come about, a sentence without a full stop.
        truth: whether there is truth to compare with.
        tile: side of the tiles in input pixels that larger pictures are cut into; None if none is.
    """
    shave = scale if scale > 1 else 0
    colours, task = ("Y", "super-resolution") if scale > 1 else ("RGB", "deblurring")
    quality = _QUALITY.format(
        shaved=f"{shave} pixels" if shave else "nothing", headline=colours, task=task
    )
    sentences = [f"{degradation_note}.", quality if truth else _NO_QUALITY, _FIDELITY]
    if tile is not None:
        sentences.append(_TILES.format(tile=tile))
    return Protocol(headline(scale), shave, degradation_note, tile, " ".join(sentences))
