"""Videos that cannot be read or written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sls_deploy.errors import SlsError
from sls_deploy.video.colour import Samples
from sls_deploy.video.formats import describe, video_suffix
from sls_deploy.video.reader import VideoReader
from sls_deploy.video.writer import VideoWriter
from tests.video.made_video import make_video, noisy_video, restore, scene


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"not a video\n" * 50, "no video that can be read"),
        (b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n", "no video that can be read"),
        (b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", "no video that can be read"),
        (bytes(range(256)) * 20, "no video that can be read"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(content)
    with pytest.raises(SlsError, match=said) as caught:
        VideoReader(source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_files_does_not_open_them(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4")
    listing = tmp_path / "b.mp4"
    listing.write_text("ffconcat version 1.0\nfile a.mp4\n")
    with pytest.raises(SlsError, match="no video"):
        VideoReader(listing)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(SlsError, match=r"cannot be read|no video"):
            VideoReader(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(SlsError, match="no video stream"):
        VideoReader(tmp_path / "a.mp4")


def test_a_cover_picture_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        cover = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        output.mux(stream.encode(cover))
        output.mux(stream.encode(None))
    with pytest.raises(SlsError, match="only a cover picture"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        (".mp4", {"container_options": {"movflags": "faststart"}}),
        (".mov", {}),
        (".mkv", {}),
        (".avi", {}),
    ],
)
def test_half_a_file_is_refused_and_leaves_nothing(
    tmp_path: Path, ending: str, options: dict[str, Any]
) -> None:
    whole = noisy_video(tmp_path / f"whole{ending}", **options).read_bytes()
    source = tmp_path / f"a{ending}"
    source.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    with pytest.raises(SlsError, match=r"cut off|ends at|no video that can be read"):
        restore(source, out / f"b{ending}")
    assert not out.exists() or not list(out.iterdir())


def test_bad_bytes_in_the_middle_say_how_many_frames_were_read(tmp_path: Path) -> None:
    source = noisy_video(tmp_path / "a.mp4")
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8000] = bytes(8000)
    source.write_bytes(content)
    with pytest.raises(SlsError, match=r"after \d+ frames .*Re-encode it first"):
        restore(source, tmp_path / "out" / "b.mp4")
    assert not list((tmp_path / "out").iterdir())


def test_interlaced_video_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"x264-params": "tff=1"})
        stream.width, stream.height = 64, 64
        black = np.zeros((64, 64, 3), np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(black, "rgb24")))
        output.mux(stream.encode(None))
    with pytest.raises(SlsError, match=r"interlaced.*bwdif"):
        VideoReader(tmp_path / "a.mkv")


def test_frames_that_are_too_large_are_refused_undecoded(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", size=(1008, 1024), stamps=[0])
    with pytest.raises(SlsError, match="1024 x 1008 pixels are too large"):
        VideoReader(source, max_megapixels=1)


def test_a_colour_matrix_that_is_not_known_is_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", tags={"colorspace": 14}, stamps=range(2))
    with pytest.raises(SlsError, match=r"a\.mkv: its colour matrix"):
        VideoReader(source)


def test_transparency_and_hdr_are_noted(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        stream.codec_context.color_trc = 16
        clear = av.VideoFrame.from_ndarray(np.full((48, 64, 4), 200, np.uint8), "bgra")
        clear.color_trc = 16
        output.mux(stream.encode(clear))
        output.mux(stream.encode(None))
    with VideoReader(tmp_path / "a.mkv") as reader:
        (frame,) = list(reader)
        notes = " ".join(reader.notes)
    assert "transparency is left out" in notes
    assert "HDR (PQ)" in notes
    np.testing.assert_allclose(frame.pixels, 200 / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("b.mp4", "ffv1"), ("b.webm", "h264"), ("b.avi", "h265"), ("b.mov", "ffv1"), ("b", "h264")],
)
def test_a_container_that_cannot_hold_the_codec_is_refused_before_any_frame(
    tmp_path: Path, name: str, codec: Any
) -> None:
    with (
        VideoReader(make_video(tmp_path / "a.mp4")) as reader,
        pytest.raises(SlsError, match=r"cannot hold .*ends in one of"),
    ):
        VideoWriter(tmp_path / "out" / name, reader, 2, codec, 16)
    assert not (tmp_path / "out").exists()


def test_the_suggested_ending_can_always_be_written(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", size=(64, 64), stamps=range(2))
    for name in ("a.mp4", "a.WEBM", "a.avi", "a.ts", "a.mov"):
        for codec in ("h264", "h265", "ffv1"):
            target = tmp_path / "out" / f"b{video_suffix(Path(name), codec)}"  # type: ignore[arg-type]
            restore(source, target, codec=codec)  # type: ignore[arg-type]
            assert target.stat().st_size > 0


@pytest.mark.parametrize(
    ("sound", "layout", "target", "fix"),
    [
        ("wmav2", "fltp", "b.mp4", r"ends in \.avi\."),
        ("wavpack", "fltp", "b.mp4", r"ends in \.mkv\."),
        ("libopus", "flt", "b.avi", r"ends in \.mp4 or .*\.mkv"),
    ],
)
def test_sound_that_the_container_cannot_hold_is_refused_before_any_frame(
    tmp_path: Path, sound: str, layout: str, target: str, fix: str
) -> None:
    source = tmp_path / ("a.wmv" if sound == "wmav2" else "a.mkv")
    with av.open(str(source), "w") as output:
        video: Any = output.add_stream("mpeg4", rate=24)
        video.width, video.height = 64, 48
        track: Any = output.add_stream(sound, rate=48000, layout="mono")
        track.bit_rate = 64000
        output.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        output.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), layout, "mono")
        silence.rate = 48000
        output.mux(track.encode(silence))
        output.mux(track.encode(None))
    with (
        VideoReader(source) as reader,
        pytest.raises(SlsError, match=rf"cannot hold its sound .*{fix}"),
    ):
        VideoWriter(tmp_path / "out" / target, reader, 1, "h264", 16)
    assert not list((tmp_path / "out").iterdir())


def test_a_size_that_the_encoder_refuses_is_found_before_any_frame(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", codec="ffv1", size=(2, 4), stamps=[0])
    with VideoReader(source) as reader:
        with pytest.raises(SlsError, match="h265 video of 4 x 2 pixels is too small"):
            VideoWriter(tmp_path / "out" / "b.mkv", reader, 1, "h265", 16)
        # H.264 ends at 16384 pixels.
        with pytest.raises(SlsError, match=r"h264 video of 20000 x 10000 .*cannot be written"):
            VideoWriter(tmp_path / "out" / "b.mkv", reader, 5000, "h264", 16)
    assert not list((tmp_path / "out").iterdir())


def test_times_too_close_for_a_container_without_times_are_refused(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", stamps=[0, 10, 20, 500], unit=Fraction(1, 1000))
    with pytest.raises(SlsError, match="uneven times"):
        restore(source, tmp_path / "b.avi")
    assert not (tmp_path / "b.avi").exists()


def _write_and_fail(reader: VideoReader, target: Path, error: type[BaseException]) -> None:
    with VideoWriter(target, reader, 1, "h264", 16) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame)
            if frame.number == 5:
                raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    source = make_video(tmp_path / "a.mp4", sounds=["eng"])
    kept = tmp_path / "out" / "b.mp4"
    kept.parent.mkdir()
    kept.write_text("what was there before")
    with VideoReader(source) as reader, pytest.raises(error):
        _write_and_fail(reader, kept, error)
    assert kept.read_text() == "what was there before"
    assert list(kept.parent.iterdir()) == [kept]


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (
        VideoReader(make_video(tmp_path / "a.mp4")) as reader,
        pytest.raises(SlsError, match="is not 3 x"),
        VideoWriter(tmp_path / "b.mp4", reader, 2, "h264", 16) as writer,
    ):
        writer.write(scene(), next(iter(reader)))


def test_a_missing_pyav_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SlsError, match=r"pip install 'sls-deploy\[video\]'"):
        VideoReader(tmp_path / "a.mp4")


def test_grey_of_a_scanner_is_full_range() -> None:
    frame = av.VideoFrame(8, 8, "gray")
    assert describe(frame, "ffv1")[0] == Samples("grey", 8, full=True)
    assert describe(frame, "h264")[0] == Samples("grey", 8)
