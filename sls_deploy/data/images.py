"""Pictures in files: whatever the file holds becomes uint8 RGB, and bad files are named."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sls_deploy.data.bicubic import Picture
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File names that count as pictures, in lower or upper case."""


def read_image(path: Path) -> Picture:
    """Read a picture as uint8 HWC RGB.

    The camera's orientation is applied, grey is replicated, alpha is dropped, 16-bit samples
    give their upper 8 bits, and of several frames the first counts.

    Raises:
        SlsError: no such file, not a picture, damaged, larger than Pillow's limit against
            decompression bombs, or in a colour space without a plain conversion to RGB.
    """
    with _decoding(path), Image.open(path) as image:
        return np.array(_eight_bit(ImageOps.exif_transpose(image)).convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels as stored, not turned yet, from the file's header alone.

    Raises:
        SlsError: no such file, not a picture, or too large.
    """
    with _decoding(path), Image.open(path) as image:
        return image.height, image.width


def write_image(path: Path, image: Picture) -> Path:
    """Write a uint8 HWC RGB picture in the format of its suffix, atomically; returns the path.

    Raises:
        SlsError: the suffix is not one of `SUFFIXES`, or the disk refuses.
    """
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise SlsError("is not a name for a picture", str(path), f"End it in one of {known}.")
    with atomic(path) as temporary:
        kind = Image.registered_extensions()[path.suffix.lower()]
        Image.fromarray(image).save(temporary, format=kind, quality=95)
    return path


def list_images(folder: Path) -> list[Path]:
    """Pictures in a folder and the folders below it, sorted; hidden ones are left out.

    Raises:
        SlsError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise SlsError(what, str(folder), "Name a folder of pictures.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        known = ", ".join(SUFFIXES)
        raise SlsError("holds no pictures", str(folder), f"Pictures end in {known}.")
    return found


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise ValueError("samples of more than 16 bits")
        return Image.fromarray((samples >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point samples")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # broken metadata; pixels are all we read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise SlsError("no such file", str(path)) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        fix = "Crop or shrink it."
        raise SlsError(f"has more than {limit} million pixels", str(path), fix) from None
    except Exception as error:  # decoders raise whatever the damaged bytes make them trip over
        raise SlsError(f"cannot be read as a picture ({_reason(error)})", str(path)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    system = error.strerror if isinstance(error, OSError) else None
    return system or str(error) or type(error).__name__
