"""Videos that the disk has no room for."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sls_deploy.errors import SlsError
from sls_deploy.video.reader import VideoReader
from sls_deploy.video.writer import VideoWriter
from tests.video.made_video import make_video, noisy_video, restore


@contextmanager
def full_after(count: int) -> Iterator[None]:
    """A disk that takes no file of more bytes than that."""
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        signal.signal(signal.SIGXFSZ, before)


def write_all(reader: VideoReader, writer: VideoWriter) -> None:
    for frame in reader:
        writer.write(frame.pixels, frame)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    source = noisy_video(tmp_path / "a.mp4")
    out = tmp_path / "out" / "b.mkv"
    with full_after(20_000), pytest.raises(SlsError, match=r"b\.mkv: cannot be written"):
        restore(source, out, codec="ffv1")
    assert not list(out.parent.iterdir())


def test_a_frame_that_finds_the_disk_full_is_told_at_once(tmp_path: Path) -> None:
    """Who writes in a thread of its own catches errors there, before the file is given up."""
    source = noisy_video(tmp_path / "a.mp4")
    out = tmp_path / "out" / "b.mkv"
    with full_after(20_000), VideoReader(source) as reader:
        writer = VideoWriter(out, reader, 1, "ffv1", 0)
        with pytest.raises(SlsError, match=r"b\.mkv: cannot be written \(File too large\)"):
            write_all(reader, writer)
        error = SlsError("the disk was full")
        writer.__exit__(SlsError, error, None)
    assert not list(out.parent.iterdir())


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path) -> None:
    """Few frames: the encoder still holds them all, and writes when the file is closed."""
    source = make_video(tmp_path / "a.mp4", stamps=range(3))
    out = tmp_path / "out" / "b.mkv"
    with full_after(600), VideoReader(source) as reader:
        writer = VideoWriter(out, reader, 1, "h264", 0)
        write_all(reader, writer)
        with pytest.raises(SlsError, match=r"b\.mkv: cannot be written"):
            writer.__exit__(None, None, None)
    assert not list(out.parent.iterdir())
