"""Sound, subtitles and attachments of a video, copied as they are."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sls_deploy.errors import SlsError, reason
from sls_deploy.video.facts import VideoFacts
from sls_deploy.video.file import open_video
from sls_deploy.video.formats import HOLDERS, MUXERS, Codec

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

_OWN = re.compile(
    r"(encoder|duration|number_of_(frames|bytes)|bps|_statistics_.*|vendor_id|rotate"
    r"|major_brand|minor_version|compatible_brands)(-\w+)?",
    re.IGNORECASE,
)
"""Tags that tell of the old file's bytes and not of what it shows."""


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags of a file or stream that still hold once it is written anew."""
    return {name: value for name, value in tags.items() if not _OWN.fullmatch(name)}


class Copies:
    """Everything of a file but its video, put into another. A context manager.

    Sound, subtitles, attached fonts, tags and chapters are kept; packets are not decoded. The
    file is opened a second time, so that video may be read by another thread meanwhile.

    Args:
        facts: of the video that was read.
        output: an open container whose header is not written yet.
        target: its file, whose name's ending tells what it can hold.
        codec: codec of the video in it.

    Raises:
        SlsError: the container cannot hold the sound.
    """

    def __init__(
        self, facts: VideoFacts, output: OutputContainer, target: Path, codec: Codec
    ) -> None:
        self.notes: list[str] = []
        self._output, self._path, self._start = output, facts.path, facts.start
        with ExitStack() as stack:
            self._source = stack.enter_context(open_video(facts.path))
            self._streams: dict[int, Stream] = {}
            for stream in self._source.streams:
                if stream.index == facts.stream or not self._keep(stream, target, codec):
                    _skip(stream)
            _copy_tags(self._source.streams[facts.stream], output.streams[0])
            output.metadata.update(kept_tags(self._source.metadata))
            self._copy_chapters()
            self._packets = self._read()
            self._next = next(self._packets, None)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def until(self, seconds: Fraction | None) -> None:
        """Copy packets up to a time, so that they lie beside the video's; None for all the rest.

        Raises:
            SlsError: the source cannot be read on.
            OSError: the disk is full.
        """
        while self._next is not None:
            packet = self._next
            when = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and when is not None and when * packet.time_base > seconds:
                return
            self._output.mux(packet)
            self._next = next(self._packets, None)

    def _keep(self, stream: Stream, target: Path, codec: Codec) -> bool:
        """Make room in the output for a stream, if it can be there."""
        from av.stream import Disposition

        suffix = target.suffix.lower()
        cover = bool(stream.disposition & Disposition.attached_pic)
        name = _name(stream)
        # QuickTime has no covers; in Matroska one is an attachment, which no stream becomes.
        if stream.type == "video" and not (cover and MUXERS[suffix] == "mp4"):
            self.notes.append(f"{'the cover picture' if cover else 'another video'} is left out")
            return False
        if stream.type in ("data", "unknown"):
            if not self._source.chapters():
                self.notes.append(f"a stream of {name} is left out")
            return False
        if not _takes(stream, MUXERS[suffix]):
            if stream.type == "audio":
                able = [end for end in HOLDERS[codec] if _takes(stream, MUXERS[end])]
                fix = "Convert its sound first: `ffmpeg -i IN -c:v copy -c:a aac OUT.mkv`."
                if able:
                    fix = f"Name a file that ends in {' or '.join(able)}."
                raise SlsError(f"{suffix} files cannot hold its sound ({name})", str(target), fix)
            self.notes.append(f"{stream.type} ({name}) is left out: {suffix} files cannot hold it")
            return False
        copy = self._output.add_stream_from_template(stream, opaque=True)
        _copy_tags(stream, copy)
        if stream.type != "attachment":
            self._streams[stream.index] = copy
        return True

    def _copy_chapters(self) -> None:
        chapters = self._source.chapters()
        for chapter in chapters:
            if base := chapter["time_base"]:
                offset = round(self._start / base)
                chapter["start"] -= offset
                chapter["end"] -= offset
        if chapters:
            self._output.set_chapters(chapters)

    def _read(self) -> Iterator[Packet[Stream]]:
        import av

        wanted = [stream for stream in self._source.streams if stream.index in self._streams]
        if not wanted:
            return
        try:
            for packet in self._source.demux(*wanted):
                if packet.size == 0 and packet.pts is None:
                    continue
                offset = round(self._start / packet.time_base)
                if packet.pts is not None:
                    packet.pts -= offset
                if packet.dts is not None:
                    packet.dts -= offset
                packet.stream = self._streams[packet.stream_index]
                yield packet
        except av.FFmpegError as error:
            what = f"its sound or subtitles cannot be read ({reason(error)})"
            raise SlsError(what, str(self._path)) from None


def _takes(stream: Stream, muxer: str) -> bool:
    """Whether a container can hold a stream, by its muxer's own word."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _skip(stream: Stream) -> None:
    from av.stream import Discard

    stream.discard = Discard.all


def _copy_tags(source: Stream, copy: Stream) -> None:
    copy.disposition = source.disposition
    copy.metadata.update(kept_tags(source.metadata))


def _name(stream: Stream) -> str:
    context = stream.codec_context
    return str(context.name if context is not None else stream.type)
