"""Small videos that tests make and look into."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from sls_deploy.video.colour import Samples, from_rgb
from sls_deploy.video.formats import Codec
from sls_deploy.video.planes import frame_of
from sls_deploy.video.reader import VideoReader
from sls_deploy.video.writer import VideoWriter

RATE = 24


def scene(height: int = 48, width: int = 64, number: int = 0) -> NDArray[np.float32]:
    """A smooth coloured picture [3, height, width] that differs from frame to frame."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = columns / max(width, 2), rows / max(height, 2)
    picture = np.stack([0.25 + 0.5 * across, 0.3 + 0.4 * down, 0.5 + 0.2 * np.sin(6 * across)])
    return np.clip(picture + 0.01 * number, 0, 1).astype(np.float32)


def make_video(
    path: Path,
    *,
    codec: str = "libx264",
    samples: Samples | None = None,
    form: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    stamps: Sequence[int] = range(12),
    unit: Fraction = Fraction(1, RATE),
    sounds: Sequence[str] = (),
    tags: dict[str, Any] | None = None,
    rotation: int = 0,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[Any] = (),
    muxing: dict[str, str] | None = None,
) -> Path:
    """Write a video of `scene` whose frames are shown at `stamps`, times `unit` seconds."""
    samples = samples or Samples("yuv", 8, 2, 2, matrix=6)
    with av.open(str(path), "w", container_options=muxing or {}) as output:
        options = {"crf": "4"} if codec == "libx264" else {}
        stream: Any = output.add_stream(codec, rate=RATE, options=options, time_base=unit)
        stream.height, stream.width = size
        stream.pix_fmt = form
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        output.metadata.update(metadata or {})
        if chapters:
            output.set_chapters(list(chapters))
        tones = [_declare_sound(output, language) for language in sounds]
        for number, stamp in enumerate(stamps):
            frame = frame_of(from_rgb(scene(*size, number), samples), form)
            frame.pts, frame.time_base = stamp, unit
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for place, tone in enumerate(tones):
            _write_sound(output, tone, 220 * (place + 1), float((stamps[-1] + 1) * unit))
    return path


def noisy_video(path: Path, **options: Any) -> Path:
    """A video of noise, whose packets are large."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w", **options) as output:
        stream = output.add_stream("libx264", rate=24, options={"crf": "4"})
        stream.width, stream.height = 64, 48
        for _ in range(72):
            noise = random.integers(0, 255, (48, 64, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        output.mux(stream.encode(None))
    return path


def _declare_sound(output: Any, language: str) -> Any:
    stream = output.add_stream("aac", rate=44100, layout="mono")
    stream.metadata["language"] = language
    return stream


def _write_sound(output: Any, stream: Any, pitch: float, seconds: float) -> None:
    wave = np.sin(np.arange(int(44100 * seconds)) * pitch * 2 * np.pi / 44100)
    for start in range(0, len(wave), 1024):
        part = wave[None, start : start + 1024].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
        frame.rate, frame.pts = 44100, start
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def restore(
    source: Path, target: Path, scale: int = 1, codec: Codec = "h264", quality: int = 0
) -> tuple[str, ...]:
    """Write a video's frames, each pixel `scale` times along each side; gives the notes."""
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(source))
        writer = stack.enter_context(VideoWriter(target, reader, scale, codec, quality))
        for frame in reader:
            larger = frame.pixels.repeat(scale, axis=1).repeat(scale, axis=2)
            writer.write(larger, frame)
        return (*reader.notes, *writer.notes)


def pixels_of(path: Path) -> list[NDArray[np.float32]]:
    """Every frame's pixels, as a reader gives them."""
    with VideoReader(path) as reader:
        return [frame.pixels for frame in reader]


def times_of(path: Path) -> list[float]:
    """When each frame is shown, seconds after the file begins."""
    with av.open(str(path)) as opened:
        return [float(frame.time) for frame in opened.decode(video=0)]


def packets_of(path: Path) -> list[list[bytes]]:
    """The bytes of every packet of every audio stream."""
    found = []
    with av.open(str(path)) as opened:
        count = len(opened.streams.audio)
    for place in range(count):
        with av.open(str(path)) as opened:
            found.append([bytes(packet) for packet in opened.demux(audio=place) if packet.size])
    return found
