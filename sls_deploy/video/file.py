"""Opening a video file, and what its container says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sls_deploy.errors import SlsError
from sls_deploy.video.formats import DEMUXERS, need_av

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

REENCODE = "Re-encode it first, such as with `ffmpeg -i IN -crf 8 OUT.mkv`."


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file of a kind that is read as video. It never opens another file.

    Raises:
        SlsError: PyAV is missing, or the file cannot be read or is no video.
    """
    need_av()
    import av

    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(
            f"file:{path.absolute()}", "r", container_options=options, metadata_errors="replace"
        )
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror or error})", str(path)) from None
    except (av.FFmpegError, ValueError):
        kind = "is empty" if path.stat().st_size == 0 else "is no video that can be read"
        raise SlsError(kind, str(path)) from None
    with container:
        yield container


def moving_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream of moving pictures.

    Raises:
        SlsError: there is none, or no decoder for it.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            if stream.codec_context is None:
                raise SlsError("is in a codec that cannot be decoded here", str(path), REENCODE)
            return stream
    cover = "only a cover picture" if container.streams.video else "no video stream"
    raise SlsError(f"holds {cover}", str(path))


def check_whole(container: InputContainer, stream: VideoStream, path: Path) -> None:
    """Refuse a file whose index tells of frames that lie after its end.

    Raises:
        SlsError: it is cut off.
    """
    needed = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    size = path.stat().st_size
    if "matroska" not in container.format.name and needed > size:
        what = f"is cut off: it has {size} of at least {needed} bytes"
        raise SlsError(what, str(path), "Fetch the whole file again.")


def stated_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Seconds that the video lasts by what its file says, if it says so."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    stated = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if stated:
        hours, minutes, seconds = stated.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    alone = len(container.streams) == 1
    return Fraction(container.duration, 10**6) if container.duration and alone else None
