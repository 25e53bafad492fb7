"""Which containers and codecs of video are there, and what a frame's pixel format stands for."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sls_deploy.errors import SlsError
from sls_deploy.video.colour import WEIGHTS, Samples

if TYPE_CHECKING:
    import av

Codec = Literal["h264", "h265", "ffv1"]

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".wmv", ".flv", ".3gp", ".ogv", ".mxf",
)  # fmt: skip
"""Endings of the names of files that are read as video, in lower case."""

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,mxf"
"""Containers that are read; playlists and lists of files are not, for they open other files."""

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
"""Containers that are written, by the ending of the name."""

HOLDERS: dict[Codec, tuple[str, ...]] = {
    "h264": (".mp4", ".m4v", ".mov", ".mkv", ".avi"),
    "h265": (".mp4", ".m4v", ".mov", ".mkv"),
    "ffv1": (".mkv", ".avi"),
}
"""Endings of files that can hold a codec, the best known first."""
_DEPTHS: dict[Codec, tuple[int, ...]] = {
    "h264": (8, 10),
    "h265": (8, 10, 12),
    "ffv1": (8, 10, 12, 16),
}
_UNSPECIFIED = (0, 2, 3)
_BETWEEN = ("mjpeg", "mpeg1video")
"""Codecs with chroma between luma samples along rows, too."""
_FULL_GREY = ("h264", "hevc", "vp9", "av1", "mpeg2video")
"""Codecs whose grey, if they do not say otherwise, leaves out the values that their YUV does."""


def need_av() -> None:
    """Say how to install what reads and writes video, if it is not there.

    Raises:
        SlsError: PyAV is missing.
    """
    if importlib.util.find_spec("av") is None:
        fix = "Install it: `pip install 'sls-deploy[video]'`."
        raise SlsError("video needs PyAV, which is not installed", fix=fix)


def video_suffix(source: Path, codec: Codec) -> str:
    """Ending for the name of a restored video: that of the source, or .mkv if it cannot hold it."""
    own = source.suffix.lower()
    return own if own in HOLDERS[codec] else ".mkv"


def check_target(target: Path, codec: Codec) -> str:
    """The muxer for a file, if its container holds the codec.

    Raises:
        SlsError: it does not.
    """
    suffix = target.suffix.lower()
    if suffix not in HOLDERS[codec]:
        able = ", ".join(HOLDERS[codec])
        kind = f"{suffix} files" if suffix else "files without an ending"
        fix = f"Name a file that ends in one of {able}, or choose another `--video-codec`."
        raise SlsError(f"{kind} cannot hold {codec} video here", str(target), fix)
    return MUXERS[suffix]


def check_size(target: Path, codec: Codec, height: int, width: int) -> None:
    """Refuse frames that an encoder cannot be trusted with.

    Raises:
        SlsError: H.265 below 64 pixels, where x265 writes beyond its memory (seen at 33 x 17).
    """
    if codec == "h265" and min(height, width) < 64:
        fix = "Choose another `--video-codec`."
        what = f"h265 video of {width} x {height} pixels is too small for its encoder"
        raise SlsError(what, str(target), fix)


def guessed_matrix(height: int, width: int) -> int:
    """Matrix of video that states none: BT.709 above the size of television, else BT.601."""
    return 1 if width >= 1280 or height > 576 else 6


def describe(frame: av.VideoFrame, codec: str) -> tuple[Samples, str]:
    """What the planes of a decoded frame stand for.

    Args:
        frame: as the decoder gave it.
        codec: name of the decoder.

    Returns:
        Its samples, and the name of the planar pixel format that holds them without loss.

    Raises:
        SlsError: colours in a form that is not red, green and blue nor luma and chroma.
    """
    form = frame.format
    colours = [part for part in form.components if not part.is_alpha]
    bits = max(part.bits for part in colours)
    depth = next((known for known in (8, 9, 10, 12, 14, 16) if known >= bits), 16)
    ending = "" if depth == 8 else f"{depth}le"
    if form.name.startswith(("xyz", "bayer")):
        raise SlsError(f"its colours ({form.name}) are neither RGB nor YUV", fix=_fix_by_ffmpeg())
    if form.is_rgb or form.has_palette:
        return Samples("rgb", depth, full=True), f"gbrp{ending}"
    full = frame.color_range == 2 or form.name.startswith("yuvj")
    if len(colours) == 1:
        full = full or (frame.color_range == 0 and codec not in _FULL_GREY)
        return Samples("grey", depth, full=full), f"gray{ending}"
    matrix = int(frame.colorspace)
    if matrix in _UNSPECIFIED:
        wide = int(frame.color_primaries) == 9
        matrix = 9 if wide else guessed_matrix(frame.height, frame.width)
    if matrix not in WEIGHTS:
        raise SlsError(f"its colour matrix (number {matrix} of H.273) is not known here",
                       fix=_fix_by_ffmpeg())  # fmt: skip
    shared = (form.chroma_width(64), form.chroma_height(64))
    names = {(64, 64): (1, 1, "444"), (32, 64): (2, 1, "422"), (32, 32): (2, 2, "420")}
    across, down, name = names.get(shared, (1, 1, "444"))
    place: Literal["on", "between"] = "between" if codec in _BETWEEN else "on"
    samples = Samples("yuv", depth, across, down, full, matrix, place)
    return samples, f"yuv{name}p{ending}"


def states_matrix(frame: av.VideoFrame) -> bool:
    """Whether a frame says by which matrix its luma and chroma were made."""
    return int(frame.colorspace) not in _UNSPECIFIED


def written_as(source: Samples, codec: Codec, height: int, width: int) -> tuple[Samples, str]:
    """How restored frames are written.

    Depth, range, matrix and sharing of chroma are those of the source as far as the codec has
    them. FFV1 holds RGB, for which nothing has to be rounded twice. Video of odd sizes cannot
    share chroma in H.264 and H.265 and gets its own for every pixel.

    Args:
        source: how the frames were read.
        codec: codec to write.
        height: of the restored frames, pixels.
        width: of the restored frames, pixels.

    Returns:
        The samples and the encoder's pixel format.
    """
    depths = _DEPTHS[codec]
    bits = next((depth for depth in depths if depth >= source.bits), depths[-1])
    ending = "" if bits == 8 else f"{bits}le"
    if codec == "ffv1":
        return Samples("rgb", bits, full=True), f"gbrp{ending}" if ending else "bgr0"
    if source.model == "rgb":
        samples = Samples("yuv", bits, matrix=guessed_matrix(height, width))
    elif source.model == "grey":
        # Few players show H.264 and H.265 without chroma.
        matrix = guessed_matrix(height, width)
        samples = Samples("yuv", bits, 2, 2, source.full, matrix)
    else:
        samples = replace(source, bits=bits, place="on")
    if width % samples.across or height % samples.down:
        samples = replace(samples, across=1, down=1)
    name = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}[samples.across, samples.down]
    return samples, f"yuv{name}p{ending}"


def _fix_by_ffmpeg() -> str:
    return "Convert it first, such as with `ffmpeg -i IN -pix_fmt yuv444p10le -crf 8 OUT.mkv`."
