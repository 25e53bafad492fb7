"""Arrays of a video frame's planes, and frames of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.video.colour import Samples

if TYPE_CHECKING:
    import av
    from av.video.plane import VideoPlane


def planes_of(frame: av.VideoFrame, samples: Samples, form: str) -> list[NDArray[Any]]:
    """The planes of a decoded frame, without copying where the frame has them already.

    Args:
        frame: a decoded frame.
        samples: what it holds.
        form: planar pixel format for these samples.

    Returns:
        [height, width] each, uint8 or uint16.
    """
    from av.video.reformatter import Interpolation

    if frame.format.name.replace("yuvj", "yuv") != form:
        # Colours stay; only the order of samples changes, or chroma that is shared in fours.
        careful = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
        same = {
            "src_colorspace": int(frame.colorspace),
            "dst_colorspace": int(frame.colorspace),
            "src_color_range": 2 if samples.full else 1,
            "dst_color_range": 2 if samples.full else 1,
        }
        frame = frame.reformat(format=form, interpolation=careful, **same)
    kind = np.dtype(np.uint8 if samples.bits == 8 else "<u2")
    arrays = []
    shapes = samples.planes(frame.height, frame.width)
    for plane, (height, width) in zip(frame.planes, shapes, strict=True):
        arrays.append(_lines(plane, kind)[:height, :width])
    return arrays


def frame_of(planes: Sequence[NDArray[Any]], form: str) -> av.VideoFrame:
    """A frame for an encoder.

    Args:
        planes: [height, width] each, uint8 or uint16; green, blue and red for RGB.
        form: planar pixel format, or 'bgr0'.
    """
    import av

    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, form)
    if form == "bgr0":
        green, blue, red = planes
        packed = np.zeros((height, width, 4), np.uint8)
        packed[..., 0], packed[..., 1], packed[..., 2] = blue, green, red
        planes = [packed.reshape(height, -1)]
    for plane, array in zip(frame.planes, planes, strict=True):
        _lines(plane, array.dtype)[: array.shape[0], : array.shape[1]] = array
    return frame


def _lines(plane: VideoPlane, kind: np.dtype[Any]) -> NDArray[Any]:
    """A plane's memory as rows, with what follows each row to align the next."""
    memory: Any = plane  # a buffer, which its stub cannot say for this Python
    return np.frombuffer(memory, kind).reshape(-1, plane.line_size // kind.itemsize)
