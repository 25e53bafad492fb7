"""Restored pictures into files, as a stream."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyvips

from sls_deploy.errors import SlsError
from sls_deploy.files import atomic
from sls_deploy.pictures.canvas import Canvas
from sls_deploy.pictures.formats import PICTURE_SUFFIXES, Format, FormatName, format_named
from sls_deploy.pictures.raster import Raster
from sls_deploy.pictures.still import Still
from sls_deploy.pictures.vips import vips_errors

_BLOCK = 1024
"""Side of the parts that transparency is turned upright in, pixels."""
_IN_MEMORY = 64 * 2**20
"""Bytes of transparency up to which it is turned in memory."""
_BIG = 2**31
"""Bytes of pixels above which a TIFF file gets 64-bit offsets; they end at 4 GiB without."""


def check_target(still: Still, target: Path, scale: int) -> None:
    """See that a restored picture can be written under a name, before any work.

    What a format holds less of, such as 16 bits, is no error: `target_notes` tells it.

    Args:
        still: the picture.
        target: the file to write; its suffix names the format.
        scale: output pixels for one input pixel, along each side.

    Raises:
        SlsError: not a picture's name, or a format that cannot hold so many pixels or
            transparency.
    """
    form = _format(target)
    height, width = still.height * scale, still.width * scale
    if max(height, width) > form.longest_side:
        what = (
            f"cannot hold {width} x {height} pixels: {form.name} ends at {form.longest_side} a side"
        )
        raise SlsError(what, str(target), "Take another format, such as `--format png`.")
    if still.alpha and not form.alpha:
        what = f"{form.name} cannot hold the transparency of {still.path}"
        raise SlsError(what, str(target), "Take another format, such as `--format png`.")


def target_notes(still: Still, target: Path) -> tuple[str, ...]:
    """What a picture loses or becomes by the format of a target that `check_target` let pass.

    Args:
        still: the picture.
        target: the file to write; its suffix names the format.

    Raises:
        SlsError: not a picture's name.
    """
    form, named = _format(target), format_named(still.path)
    notes = []
    if still.form != form.name and (named is None or named.name == form.name):
        notes.append(f"is {still.form} by its content, and written as {form.name} by its name")
    if still.bits == 16 and not form.deep:
        notes.append(f"16 bits are rounded to the 8 of {form.name}")
    if still.grey and still.metadata.profile and form.name == "webp":
        notes.append("grey with a colour profile converted to sRGB, because webp has no grey")
    if still.metadata.exif and form.name == "tiff":
        notes.append("left out EXIF data, which is not written into tiff")
    if still.metadata.iptc and form.name in ("png", "webp"):
        notes.append(f"left out IPTC data, which is not written into {form.name}")
    return tuple(notes)


def save_still(
    still: Still,
    canvas: Canvas,
    target: Path,
    scale: int,
    quality: int,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write a restored picture, atomically, in the format of its suffix.

    Colour profile, XMP and resolution are kept, EXIF but in TIFF, and IPTC in JPEG and TIFF, as
    libvips writes them; the orientation is upright and the thumbnail is left out. Transparency is
    enlarged by bicubic. JPEG gets a chroma sample for each pixel, because halving them would undo
    what the network restored; a grey picture with a profile becomes sRGB in WebP.

    Args:
        still: the picture that it was restored from.
        canvas: all of its restored pixels.
        target: the file to write.
        scale: output pixels for one input pixel, along each side.
        quality: of JPEG and WebP, 1 to 100.
        stopped: asked now and then, perhaps by another thread; True ends it with an error.

    Raises:
        SlsError: as `check_target`; the disk is full or refuses, or it was stopped; nothing is
            left then.
    """
    check_target(still, target, scale)
    form = _format(target)
    fix = "Free some space or name another folder; finished work is kept."
    with ExitStack() as stack:
        rasters = [canvas.raster]
        if still.alpha:
            rasters.append(stack.enter_context(_upright_alpha(still, target.parent)))
        image, keep = still.metadata.put_on(_image(rasters, form, scale))
        if form.name == "webp" and still.grey and still.metadata.profile:
            image = image.icc_transform("srgb", embedded=True)
        _watch(image, rasters, stopped)
        save = getattr(image, f"{form.name}save_target")
        size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
        with atomic(target) as temporary:
            handle = os.open(temporary, os.O_RDWR)
            try:
                with vips_errors(target, "cannot be written", fix):
                    into = pyvips.Target.new_to_descriptor(handle)
                    save(into, keep=keep, **_options(form, quality, size))
            finally:
                os.close(handle)


def _format(target: Path) -> Format:
    form = format_named(target)
    if form is None:
        fix = f"End it in one of {', '.join(PICTURE_SUFFIXES)}."
        raise SlsError("is not a name for a picture", str(target), fix)
    return form


def _upright_alpha(still: Still, folder: Path) -> Raster:
    """The transparency turned as the picture is, in the file's own size."""
    raster = Raster(still.height, still.width, 1, still.bits, folder, _IN_MEMORY)
    try:
        for top in range(0, still.height, _BLOCK):
            for left in range(0, still.width, _BLOCK):
                height = min(_BLOCK, still.height - top)
                width = min(_BLOCK, still.width - left)
                raster.write(top, left, still.read_alpha(top, left, height, width))
    except BaseException:
        raster.close()
        raise
    return raster


def _image(rasters: list[Raster], form: Format, scale: int) -> pyvips.Image:
    """Colours and transparency as one picture, with as many bits as the format holds."""
    image, *alphas = (raster.image() for raster in rasters)
    grey, deep = image.bands == 1, image.format == "ushort"
    for alpha in alphas:
        image = image.bandjoin(alpha if scale == 1 else _bicubic(alpha, scale))
    if deep and not form.deep:
        image, deep = (image / 257).rint().cast("uchar"), False
    kind = ("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb")
    return image.copy(interpretation=kind)


def _bicubic(image: pyvips.Image, scale: int) -> pyvips.Image:
    """Enlarge as MATLAB's `imresize` does: the outer edges of both pictures coincide.

    libvips's own `resize` lets the first pixels' corners coincide, half a pixel off.
    """
    return image.affine(
        [scale, 0, 0, scale],
        interpolate=pyvips.Interpolate.new("bicubic"),
        oarea=[0, 0, image.width * scale, image.height * scale],
        odx=(scale - 1) / 2,
        ody=(scale - 1) / 2,
        extend="copy",
    )


def _watch(image: pyvips.Image, rasters: list[Raster], stopped: Callable[[], bool]) -> None:
    """Give memory back while a picture is written, and end that where it is not wanted any more."""

    def watch(*_: object) -> None:
        for raster in rasters:
            raster.release()
        if stopped():
            image.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", watch)


def _options(form: Format, quality: int, size: int) -> dict[str, Any]:
    """What a saver of libvips is told, for so many bytes of pixels."""
    options: dict[FormatName, dict[str, Any]] = {
        # Level 3 with filters is within 3 % of level 6 on photographs, in two thirds of the time.
        "png": {"compression": 3, "filter": "all"},
        # Optimal tables would need all coefficients in memory.
        "jpeg": {"Q": quality, "subsample_mode": "off"},
        "webp": {"Q": quality, "smart_subsample": True},
        "tiff": {"compression": "deflate", "predictor": "horizontal", "bigtiff": size > _BIG},
    }
    return options[form.name]
