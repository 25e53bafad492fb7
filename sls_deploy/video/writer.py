"""Restored frames as a video file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError, reason
from sls_deploy.files import atomic, disk_errors
from sls_deploy.video.colour import from_rgb
from sls_deploy.video.copies import Copies
from sls_deploy.video.formats import Codec, check_size, check_target, need_av, written_as
from sls_deploy.video.planes import frame_of
from sls_deploy.video.reader import Frame, VideoReader

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_ENCODERS: dict[Codec, Literal["libx264", "libx265", "ffv1"]] = {
    "h264": "libx264",
    "h265": "libx265",
    "ffv1": "ffv1",
}
_HELD = 256 * 2**20
"""Bytes of frames that an encoder may look ahead over."""


class VideoWriter:
    """Writes frames with everything else that their source holds. A context manager, one thread.

    The file takes its name once it is whole: leaving the context by an error leaves no file.
    Depth, range, matrix and sharing of chroma, shape of pixels and time stamps are those of the
    source; sound, subtitles, attachments, tags and chapters are copied.

    Args:
        target: the file to write; its ending names the container.
        reader: the source.
        scale: pixels written for one that was read, along each side.
        codec: codec of the video.
        quality: constant rate factor of H.264 and H.265, 0..51; lower is better.

    Raises:
        SlsError: the container cannot hold the codec or the sound, the encoder refuses the size,
            or the file cannot be written. All but a full disk is found out before any frame.
    """

    def __init__(
        self, target: Path, reader: VideoReader, scale: int, codec: Codec, quality: int
    ) -> None:
        need_av()
        import av

        self._target, self._codec = target, codec
        self._facts = facts = reader.facts
        self._size = height, width = facts.height * scale, facts.width * scale
        muxer = check_target(target, codec)
        check_size(target, codec, height, width)
        self._samples, self._form = written_as(facts.samples, codec, height, width)
        # AVI has no time stamps, only a rate.
        self._base = 1 / facts.rate if muxer == "avi" else facts.time_base
        self._last: int | None = None
        self._count = 0
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic(target))
            with self._failures():
                # AVI counts frames, and would hold an empty one for sound that begins earlier.
                shift = {"avoid_negative_ts": "disabled"} if muxer == "avi" else {}
                self._output = av.open(str(temporary), "w", format=muxer, container_options=shift)
                stack.callback(self._abandon)
                self._stream = self._declare(self._output, quality)
                self._copies = stack.enter_context(Copies(facts, self._output, target, codec))
                self._output.start_encoding()
            self._stack = stack.pop_all()

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know of how it is written."""
        notes = list(self._copies.notes)
        source = self._facts.samples
        if source.bits > self._samples.bits:
            notes.append(f"{source.bits} bits are rounded to the {self._samples.bits} of the codec")
        if source.across * source.down > 1 and self._form.startswith("yuv444"):
            notes.append("odd sizes: chroma is written for every pixel (4:4:4)")
        return tuple(notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack, self._failures():
            packets = self._stream.encode(None)
            if self._codec == "h265" and self._count <= 2:
                # x265 leaves the times of decoding unset in clips shorter than its reordering.
                for packet in packets:
                    packet.dts = packet.pts
            self._output.mux(packets)
            self._copies.until(None)
            self._output.close()

    def write(self, pixels: NDArray[np.float32], frame: Frame) -> None:
        """Append a restored frame.

        Args:
            pixels: [3, height * scale, width * scale], red, green and blue, 0..1; clipped.
            frame: the frame that was restored, for its time.

        Raises:
            SlsError: another size, times that the container cannot hold, a failed encoder, or a
                full disk.
        """
        if pixels.shape != (3, *self._size):
            raise SlsError(f"a frame of shape {pixels.shape} is not 3 x {self._size}")
        encoded = frame_of(from_rgb(pixels, self._samples), self._form)
        encoded.pts, encoded.time_base = self._stamp(frame), self._base
        encoded.duration = round(frame.duration * self._facts.time_base / self._base)
        encoded.colorspace = self._stream.codec_context.colorspace
        encoded.color_range = self._stream.codec_context.color_range
        self._count += 1
        with self._failures():
            for packet in self._stream.encode(encoded):
                if packet.dts is not None:
                    self._copies.until(packet.dts * packet.time_base)
                self._output.mux(packet)

    def _stamp(self, frame: Frame) -> int:
        stamp = round(frame.stamp * self._facts.time_base / self._base)
        if self._last is not None and stamp <= self._last:
            what = ".avi files cannot hold frames at uneven times"
            raise SlsError(what, str(self._target), "Name a target that ends in .mkv.")
        self._last = stamp
        return stamp

    def _declare(self, output: OutputContainer, quality: int) -> VideoStream:
        """The video stream of the output, with the tags of its colours."""
        from av.codec.context import Flags

        facts, samples = self._facts, self._samples
        height, width = self._size
        stream = output.add_stream(
            _ENCODERS[self._codec],
            rate=facts.rate,
            options=self._options(quality),
            width=width,
            height=height,
            time_base=self._base,
        )
        context = stream.codec_context
        context.pix_fmt = self._form
        context.flags |= Flags.frame_duration  # else the last frame is as short as the rest
        context.color_range = 2 if samples.full else 1
        context.colorspace = 0 if samples.model == "rgb" else samples.matrix
        context.color_primaries = facts.primaries
        context.color_trc = facts.transfer
        if facts.aspect:
            context.sample_aspect_ratio = facts.aspect
        if self._codec == "h265" and self._target.suffix.lower() in (".mp4", ".m4v", ".mov"):
            context.codec_tag = "hvc1"  # the only one that Apple's players take
        return stream

    def _options(self, quality: int) -> dict[str, str]:
        height, width = self._size
        held = height * width * (3 if self._samples.across == 1 else 2)
        ahead = str(min(max(_HELD // (held * (1 if self._samples.bits == 8 else 2)), 5), 40))
        if self._codec == "h264":
            # Frames that refer to later ones confuse readers of AVI.
            later = {"bf": "0"} if self._target.suffix.lower() == ".avi" else {}
            return {"crf": str(quality), "rc-lookahead": ahead, **later}
        if self._codec == "h265":
            return {"crf": str(quality), "x265-params": f"log-level=none:rc-lookahead={ahead}"}
        return {"level": "3", "slicecrc": "1"}

    def _abandon(self) -> None:
        """Close the output if that is still to be done, which only follows upon an error."""
        import av

        with suppress(av.FFmpegError, ValueError):
            self._output.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what encoders, muxers and the disk say into one error about the target."""
        import av

        with disk_errors(self._target):
            try:
                yield
            except OSError:
                raise  # some of FFmpeg's are of this kind, too
            except (av.FFmpegError, ValueError) as error:
                height, width = self._size
                what = f"{self._codec} video of {width} x {height} pixels cannot be written"
                fix = "Choose another `--video-codec` or a target that ends in .mkv."
                why = error.strerror if isinstance(error, av.FFmpegError) else reason(error)
                raise SlsError(f"{what} ({why})", str(self._target), fix) from None
