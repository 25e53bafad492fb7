"""Frames of a video file, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError, reason
from sls_deploy.video.colour import Samples, to_rgb
from sls_deploy.video.facts import Turn, VideoFacts, turn_of
from sls_deploy.video.file import (
    REENCODE,
    check_whole,
    moving_stream,
    open_video,
    stated_seconds,
)
from sls_deploy.video.formats import describe, states_matrix
from sls_deploy.video.planes import planes_of

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_HDR = {16: "PQ", 18: "HLG"}
_SHORT = Fraction(1)
"""Seconds that may be missing at the end before a file is taken for a part of one."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    pixels: NDArray[np.float32]
    """[3, height, width], upright; red, green and blue, 0..1."""
    number: int
    """Its place, from 0."""
    stamp: int
    """When it is shown, in units of the video's time base; rises from frame to frame."""
    duration: int
    """How long it is shown, in the same units; 0 if the file does not say."""


class VideoReader:
    """Reads the first video stream of a file. A context manager; used by one thread.

    Frames come upright, as pictures do: a turn that the file asks players for is made, so that
    the written video needs none. Colours are those that the file's matrix and range give; where
    it states none, BT.601 up to the size of television and BT.709 above, limited range.

    Args:
        path: the file.
        max_megapixels: a larger frame is refused before it is decoded, in millions of pixels.

    Raises:
        SlsError: the file is no video, is cut off, is interlaced, or its first frame cannot be
            decoded. Iterating raises it where the rest cannot be.
    """

    def __init__(self, path: Path, max_megapixels: int = 1000) -> None:
        self.path = path
        with ExitStack() as stack:
            self._container = container = stack.enter_context(open_video(path))
            self._stream = moving_stream(container, path)
            context = self._stream.codec_context
            if context.width * context.height > max_megapixels * 10**6:
                size = f"frames of {context.width} x {context.height} pixels are too large"
                raise SlsError(size, str(path), f"The limit is {max_megapixels} megapixels.")
            check_whole(container, self._stream, path)
            self._notes: dict[str, None] = {}
            self._count = 0
            self._decoded = self._decode(container)
            first = next(self._decoded, None)
            if first is None:
                raise SlsError("holds no frame that can be decoded", str(path))
            try:
                self.facts, self._turn = self._learn(container, first)
            except SlsError as error:
                raise SlsError(error.what, str(path), error.fix) from None
            self._first: av.VideoFrame | None = first
            self._stored = (first.height, first.width)
            self._last: int | None = None
            self._stack = stack.pop_all()

    @property
    def height(self) -> int:
        """Upright height, pixels."""
        return self.facts.height

    @property
    def width(self) -> int:
        """Upright width, pixels."""
        return self.facts.width

    @property
    def rate(self) -> Fraction:
        """Frames for a second, on average."""
        return self.facts.rate

    @property
    def bits(self) -> Literal[8, 16]:
        """16 where a sample of the file has more than 8 bits."""
        return 8 if self.facts.samples.bits == 8 else 16

    @property
    def frames(self) -> int | None:
        """How many frames there are, by what the file says; for progress only."""
        if self._stream.frames:
            return self._stream.frames
        seconds = stated_seconds(self._container, self._stream)
        return max(round(seconds * self.rate), 1) if seconds else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know of how it was read; complete once all frames are read."""
        return tuple(self._notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Frame]:
        """Each frame once, in the order in which they are shown.

        Raises:
            SlsError: a frame cannot be decoded or has another size, or the file ends early.
        """
        first, self._first = self._first, None
        if first is not None:
            yield self._frame(first)
        for decoded in self._decoded:
            yield self._frame(decoded)

    def _decode(self, container: InputContainer) -> Iterator[av.VideoFrame]:
        import av

        self._stream.thread_type = "AUTO"
        end = Fraction(0)
        damaged = False
        broadcast = "mpeg" in container.format.name.split(",")[0]
        try:
            for packet in container.demux(self._stream):
                # Recordings of broadcasts hold damaged packets; elsewhere the file is cut off.
                if packet.is_corrupt and not broadcast:
                    raise self._unreadable("the file is cut off or damaged there")
                if packet.pts is not None:
                    shown = packet.pts + (packet.duration or 0)
                    end = max(end, shown * packet.time_base)
                for frame in packet.decode():
                    damaged = damaged or frame.is_corrupt
                    yield frame
        except av.FFmpegError as error:
            raise self._unreadable(reason(error)) from None
        stated = stated_seconds(container, self._stream)
        if stated and "matroska" in container.format.name and stated - end > _SHORT:
            missing = f"it ends at {float(end):.1f} of {float(stated):.1f} seconds"
            raise self._unreadable(missing)
        if damaged:
            self._notes["some frames are damaged in the file and were restored as decoded"] = None

    def _unreadable(self, why: str) -> SlsError:
        what = f"cannot be decoded after {self._count} frames ({why})"
        return SlsError(what, str(self.path), REENCODE)

    def _learn(self, container: InputContainer, first: av.VideoFrame) -> tuple[VideoFacts, Turn]:
        """What the first frame and the container say of the video."""
        stream = self._stream
        samples, _ = describe(first, stream.codec_context.name)
        if first.interlaced_frame:
            fix = "Deinterlace it first, such as with `ffmpeg -i IN -vf bwdif -crf 8 OUT.mkv`."
            raise SlsError("is interlaced; networks restore whole frames", fix=fix)
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        turn = turn_of(bytes(matrix) if matrix is not None else None)
        aspect = stream.sample_aspect_ratio or None
        height, width = first.height, first.width
        if turn.transpose:
            height, width = width, height
            aspect = 1 / aspect if aspect else None
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        facts = VideoFacts(
            path=self.path,
            stream=stream.index,
            height=height,
            width=width,
            samples=samples,
            primaries=int(first.color_primaries),
            transfer=int(first.color_trc),
            aspect=aspect,
            rate=rate,
            time_base=stream.time_base or 1 / rate,
            start=Fraction(max(container.start_time or 0, 0), 10**6),
        )
        self._note_first(first, samples, turn)
        return facts, turn

    def _note_first(self, first: av.VideoFrame, samples: Samples, turn: Turn) -> None:
        if samples.model == "yuv" and not states_matrix(first):
            name = {1: "BT.709", 9: "BT.2020"}.get(samples.matrix, "BT.601")
            self._notes[f"no colour matrix is stated: {name} is assumed, and written"] = None
        if (transfer := int(first.color_trc)) in _HDR:
            self._notes[
                f"HDR ({_HDR[transfer]}): samples are restored as they are; "
                "the data of the mastering display is left out"
            ] = None
        if any(part.is_alpha for part in first.format.components):
            self._notes["transparency is left out"] = None
        if turn != Turn():
            self._notes["frames are turned upright"] = None

    def _frame(self, decoded: av.VideoFrame) -> Frame:
        if (decoded.height, decoded.width) != self._stored:
            was = f"{self._stored[1]} x {self._stored[0]}"
            change = f"changes its size from {was} to {decoded.width} x {decoded.height}"
            raise SlsError(f"{change} at frame {self._count}", str(self.path), REENCODE)
        samples, form = describe(decoded, self._stream.codec_context.name)
        if samples.model == "yuv":
            # A guess that was made once must hold for all frames.
            samples = replace(samples, matrix=self.facts.samples.matrix)
        pixels = self._turn.upright(to_rgb(planes_of(decoded, samples, form), samples))
        frame = Frame(pixels, self._count, self._stamp(decoded), decoded.duration or 0)
        self._count += 1
        return frame

    def _stamp(self, decoded: av.VideoFrame) -> int:
        base = self.facts.time_base
        given = decoded.pts if decoded.pts is not None else decoded.dts
        least = 0 if self._last is None else self._last + 1
        if given is None:
            step = max(round(1 / (self.facts.rate * base)), 1)
            stamp = 0 if self._last is None else self._last + step
        else:
            stamp = given - round(self.facts.start / base)
            if self._last is not None and stamp < least:
                self._notes["time stamps that did not rise were moved"] = None
                stamp = least
        self._last = stamp
        return stamp
