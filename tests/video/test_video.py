"""What a restored video keeps of its source."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from sls_deploy.video.colour import Samples
from sls_deploy.video.reader import VideoReader
from sls_deploy.video.writer import VideoWriter
from tests.video.made_video import make_video, packets_of, pixels_of, restore, scene, times_of

UNEVEN = [0, 3000, 9000, 10000, 20000, 20500, 40000, 60000, 61000, 62000, 90000, 99000]
FORMS = {
    "8-bit 4:2:0": ("yuv420p", Samples("yuv", 8, 2, 2, matrix=1)),
    "8-bit 4:2:2": ("yuv422p", Samples("yuv", 8, 2, 1, matrix=6)),
    "8-bit 4:4:4": ("yuv444p", Samples("yuv", 8, matrix=1)),
    "10-bit 4:2:0": ("yuv420p10le", Samples("yuv", 10, 2, 2, matrix=9)),
    "full range": ("yuvj420p", Samples("yuv", 8, 2, 2, full=True, matrix=1)),
}


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("kind", sorted(FORMS))
def test_samples_and_tags_of_colours_stay(tmp_path: Path, kind: str, codec: str) -> None:
    form, samples = FORMS[kind]
    tags = {
        "color_range": 2 if samples.full else 1,
        "colorspace": samples.matrix,
        "color_primaries": 9,
        "color_trc": 14,
    }
    source = make_video(
        tmp_path / "a.mkv", form=form, samples=samples, tags=tags, size=(64, 80), stamps=range(3)
    )
    notes = restore(source, tmp_path / "b.mkv", codec=codec)  # type: ignore[arg-type]
    assert notes == ()
    with av.open(str(source)) as one, av.open(str(tmp_path / "b.mkv")) as other:
        before, after = next(one.decode(video=0)), next(other.decode(video=0))
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        assert getattr(after, name) == getattr(before, name) == tags[name]
    assert after.format.name == before.format.name == form
    for one_frame, other_frame in zip(
        pixels_of(source), pixels_of(tmp_path / "b.mkv"), strict=True
    ):
        shift = (other_frame - one_frame).mean(axis=(1, 2)) * 255
        assert np.abs(shift).max() < 0.5


def test_colours_are_those_that_were_encoded(tmp_path: Path) -> None:
    for matrix, full in ((1, False), (6, True), (9, False)):
        samples = Samples("yuv", 8, full=full, matrix=matrix)
        tags = {"colorspace": matrix, "color_range": 2 if full else 1}
        form = "yuvj444p" if full else "yuv444p"
        source = make_video(tmp_path / "a.mkv", form=form, samples=samples, tags=tags)
        for number, pixels in enumerate(pixels_of(source)):
            np.testing.assert_allclose(pixels, scene(number=number), atol=0.03)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_uneven_times_stay_and_no_frame_is_lost(tmp_path: Path, ending: str) -> None:
    source = make_video(tmp_path / f"a{ending}", stamps=UNEVEN, unit=Fraction(1, 90000))
    restore(source, tmp_path / f"b{ending}")
    expected = [stamp / 90000 for stamp in UNEVEN]
    assert times_of(tmp_path / f"b{ending}") == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".avi"])
def test_even_rate_size_and_count_are_as_in_the_source(tmp_path: Path, ending: str) -> None:
    source = make_video(tmp_path / "a.mp4", sounds=["eng"])
    target = tmp_path / f"b{ending}"
    restore(source, target, scale=2)
    with VideoReader(target) as reader:
        assert (reader.height, reader.width, reader.rate) == (96, 128, 24)
        assert sum(1 for _ in reader) == 12
    steps = [after - before for before, after in pairwise(times_of(target))]
    assert steps == pytest.approx([1 / 24] * 11, abs=0.0011)


def test_the_last_frame_stays_as_long_as_it_did(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", stamps=[0, 1, 2])
    with (
        VideoReader(source) as reader,
        VideoWriter(tmp_path / "b.mkv", reader, 1, "h264", 9) as writer,
    ):
        for frame in reader:
            long = 3000 if frame.number == 2 else frame.duration
            writer.write(frame.pixels, replace(frame, duration=long))
    with av.open(str(tmp_path / "b.mkv")) as opened:
        assert opened.duration == pytest.approx(3.083e6, rel=0.001)


def test_sound_is_copied_packet_for_packet_and_stays_beside_the_picture(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", sounds=["eng", "fra"], muxing={"movflags": "faststart"})
    for ending in (".mp4", ".mkv"):
        target = tmp_path / f"b{ending}"
        restore(source, target)
        assert packets_of(target) == packets_of(source)
        with av.open(str(target)) as copy, av.open(str(source)) as old:
            assert [stream.language for stream in copy.streams.audio] == ["eng", "fra"]
            kinds = [stream.disposition for stream in copy.streams.audio]
            assert kinds == [stream.disposition for stream in old.streams.audio]
            begins = [
                next(float(packet.pts * packet.time_base) for packet in opened.demux(audio=0))
                for opened in (copy, old)
            ]
        lag = times_of(target)[0] - begins[0]
        assert lag == pytest.approx(times_of(source)[0] - begins[1], abs=0.002)


def test_tags_and_chapters_stay(tmp_path: Path) -> None:
    chapter = {"id": 1, "start": 0, "end": 250, "time_base": Fraction(1, 1000),
               "metadata": {"title": "Dawn"}}  # fmt: skip
    source = make_video(
        tmp_path / "a.mkv", metadata={"title": "The sea", "comment": "1931"}, chapters=[chapter]
    )
    for ending in (".mkv", ".mp4"):
        restore(source, tmp_path / f"b{ending}")
        with av.open(str(tmp_path / f"b{ending}")) as opened:
            tags = {name.lower(): value for name, value in opened.metadata.items()}
            assert (tags["title"], tags["comment"]) == ("The sea", "1931")
            (kept,) = opened.chapters()
            assert kept["metadata"]["title"] == "Dawn"
            assert kept["end"] * (kept["time_base"] or 0) == Fraction(1, 4)


def subtitled(source: Path, target: Path) -> Path:
    """A Matroska file with a video's streams, a subtitle and an attached font."""
    text = io.BytesIO(b"1\n00:00:00,100 --> 00:00:00,400\nhello\n\n")
    with (
        av.open(str(source)) as old,
        av.open(text, format="srt") as lines,
        av.open(str(target), "w") as output,
    ):
        video = output.add_stream_from_template(old.streams.video[0], opaque=True)
        words = output.add_stream_from_template(lines.streams[0], opaque=True)
        output.add_attachment("serif.ttf", "application/x-truetype-font", b"\0\1\0\0 a font")
        for stream, opened in ((video, old), (words, lines)):
            for packet in opened.demux():
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    return target


def test_subtitles_and_fonts_stay_where_they_can_and_are_named_where_not(tmp_path: Path) -> None:
    source = subtitled(make_video(tmp_path / "a.mp4"), tmp_path / "a.mkv")
    assert not [note for note in restore(source, tmp_path / "b.mkv") if "left out" in note]
    with av.open(str(tmp_path / "b.mkv")) as opened:
        kinds = [stream.type for stream in opened.streams]
        assert kinds == ["video", "subtitle", "attachment"]
        (words,) = [bytes(packet) for packet in opened.demux(subtitles=0) if packet.size]
    assert words == b"hello"
    notes = restore(source, tmp_path / "b.mp4")
    assert len([note for note in notes if "left out" in note]) == 2
    assert len(times_of(tmp_path / "b.mp4")) == 12


def test_a_cover_picture_stays_in_mp4_and_is_not_taken_for_the_video(tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4")
    source = tmp_path / "a.mp4"
    with av.open(str(film)) as old, av.open(str(source), "w") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        video = output.add_stream_from_template(old.streams.video[0], opaque=True)
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        output.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
    assert not [note for note in restore(source, tmp_path / "b.mp4") if "left out" in note]
    assert len(times_of(tmp_path / "b.mp4")) == 12
    with av.open(str(tmp_path / "b.mp4")) as opened:
        assert opened.streams[1].disposition & Disposition.attached_pic
    assert "the cover picture is left out" in restore(source, tmp_path / "b.mkv")


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_turned_video_is_written_upright_with_no_turn_left(
    tmp_path: Path, rotation: int, turns: int
) -> None:
    aspect = {"sample_aspect_ratio": Fraction(4, 3)}
    source = make_video(tmp_path / "a.mp4", rotation=rotation, tags=aspect, stamps=range(3))
    assert "frames are turned upright" in restore(source, tmp_path / "b.mp4")
    upright = np.rot90(scene(), turns, (1, 2))
    np.testing.assert_allclose(pixels_of(tmp_path / "b.mp4")[0], upright, atol=0.05)
    with av.open(str(tmp_path / "b.mp4")) as opened:
        assert next(opened.decode(video=0)).rotation == 0
        shape = opened.streams.video[0].sample_aspect_ratio
    assert shape == (Fraction(4, 3) if turns == 2 else Fraction(3, 4))


def test_a_matrix_that_is_guessed_is_written_for_the_larger_video(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", size=(160, 240), stamps=range(2))
    notes = restore(source, tmp_path / "b.mp4", scale=4)
    assert any("BT.601" in note for note in notes)
    with av.open(str(tmp_path / "b.mp4")) as opened:
        frame = next(opened.decode(video=0))
    assert (frame.height, frame.colorspace) == (640, 6)


def test_ffv1_loses_nothing_of_what_was_restored(tmp_path: Path) -> None:
    for bits in (8, 10):
        form = "yuv420p" if bits == 8 else "yuv420p10le"
        samples = Samples("yuv", bits, 2, 2, matrix=6)
        source = make_video(tmp_path / "a.mkv", form=form, samples=samples, stamps=range(2))
        restore(source, tmp_path / "b.mkv", codec="ffv1")
        steps = 2**bits - 1
        for before, after in zip(pixels_of(source), pixels_of(tmp_path / "b.mkv"), strict=True):
            np.testing.assert_allclose(after * steps, np.rint(before * steps), atol=0.01)


@pytest.mark.parametrize("codec", ["h264", "h265", "ffv1"])
def test_odd_sizes_keep_their_size(tmp_path: Path, codec: str) -> None:
    source = make_video(tmp_path / "a.mkv", codec="ffv1", size=(65, 67), stamps=range(2))
    restore(source, tmp_path / "b.mkv", codec=codec)  # type: ignore[arg-type]
    first = pixels_of(tmp_path / "b.mkv")[0]
    assert first.shape == (3, 65, 67)
    np.testing.assert_allclose(first, scene(65, 67), atol=0.06)


@pytest.mark.parametrize("codec", ["h264", "h265", "ffv1"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_clip_of_few_frames_keeps_each_of_them(tmp_path: Path, codec: str, count: int) -> None:
    source = make_video(tmp_path / "a.mkv", size=(64, 64), stamps=range(count))
    for ending in (".mkv", ".mp4") if codec != "ffv1" else (".mkv",):
        restore(source, tmp_path / f"b{ending}", codec=codec)  # type: ignore[arg-type]
        expected = [number / 24 for number in range(count)]
        assert times_of(tmp_path / f"b{ending}") == pytest.approx(expected, abs=0.001)


def test_grey_video_stays_without_colour(tmp_path: Path) -> None:
    grey = Samples("grey", 8, full=True)
    source = make_video(
        tmp_path / "a.mkv", codec="ffv1", form="gray", samples=grey, stamps=range(2)
    )
    restore(source, tmp_path / "b.mkv")
    red, green, blue = pixels_of(tmp_path / "b.mkv")[0]
    assert np.abs(red - green).max() < 0.01
    assert np.abs(blue - green).max() < 0.01
    np.testing.assert_allclose(green, scene().mean(axis=0), atol=0.03)


def test_packed_rgb_is_read_as_it_stands(tmp_path: Path) -> None:
    samples = Samples("rgb", 8, full=True)
    source = make_video(
        tmp_path / "a.mkv", codec="ffv1", form="bgr0", samples=samples, stamps=range(2)
    )
    np.testing.assert_allclose(pixels_of(source)[0] * 255, np.rint(scene() * 255), atol=1e-3)


def test_a_file_that_begins_late_is_written_from_its_beginning(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", stamps=range(240, 252), sounds=[])
    assert times_of(source)[0] == pytest.approx(10)
    restore(source, tmp_path / "b.mkv")
    assert times_of(tmp_path / "b.mkv")[0] == pytest.approx(0, abs=0.001)


def test_broadcast_streams_are_written_to_files_that_can_hold_them(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.ts", sounds=["eng"])
    restore(source, tmp_path / "b.mp4")
    assert len(times_of(tmp_path / "b.mp4")) == 12
    assert len(packets_of(tmp_path / "b.mp4")[0]) == len(packets_of(source)[0])
