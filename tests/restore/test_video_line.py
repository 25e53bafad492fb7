"""Videos on their way through the pipeline: three threads share each file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.config import RestoreConfig
from sls_deploy.errors import SlsError
from sls_deploy.progress import silent
from sls_deploy.restore.answers import Answer
from sls_deploy.restore.pipeline import Pipeline
from sls_deploy.restore.sources import Job
from sls_deploy.runtime.runner import Pictures
from sls_deploy.video.reader import VideoReader
from tests.restore.doubling import Doubling
from tests.video.made_video import make_video

OPTIONS = RestoreConfig(video_codec="ffv1")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a.mkv")


def frames(path: Path) -> list[Pictures]:
    with VideoReader(path) as reader:
        return [frame.pixels for frame in reader]


def restored(restorer: Doubling, *sources: Path, out: Path) -> Pipeline:
    pipeline = Pipeline(restorer, OPTIONS, silent)
    pipeline.run([Job(source, out / f"{source.stem}.mkv", "video") for source in sources])
    return pipeline


def test_every_frame_is_restored_in_its_place(video: Path, tmp_path: Path) -> None:
    pipeline = restored(Doubling(), video, out=tmp_path)
    given, found = frames(video), frames(tmp_path / "a.mkv")
    assert (len(found), pipeline.restored[0].frames) == (len(given), len(given))
    for before, after in zip(given, found, strict=True):
        expected = before.repeat(2, axis=1).repeat(2, axis=2)
        assert np.abs(after - expected).max() < 0.02


def test_a_network_of_three_frames_gets_those_around(video: Path, tmp_path: Path) -> None:
    seen: list[Pictures] = []

    class Watching(Doubling):
        def run(self, tiles: Pictures) -> Answer:
            seen.append(tiles[0, ::3, 0, 0])
            return super().run(tiles)

    whole = Watching(frames=3)
    whole.sizes = type(whole.sizes)(512, 4, 4)
    restored(whole, video, out=tmp_path)
    first = [frame[0, 0, 0] for frame in frames(video)]
    around = [first[0], *first, first[-1]]
    np.testing.assert_allclose(seen, list(zip(around, around[1:], around[2:], strict=False)))


def test_a_network_that_fails_in_the_middle_leaves_nothing_and_the_next_goes_on(
    video: Path, tmp_path: Path
) -> None:
    class Failing(Doubling):
        def run(self, tiles: Pictures) -> Answer:
            if len(self.groups) == 5:
                self.groups.append(tiles.shape)
                raise SlsError("gave out", "the network")
            return super().run(tiles)

    other = video.with_name("b.mkv")
    other.write_bytes(video.read_bytes())
    restorer, out = Failing(), tmp_path / "out"
    pipeline = restored(restorer, video, other, out=out)
    assert [failed.reason for failed in pipeline.failed] == ["the network: gave out"]
    assert [path.name for path in out.iterdir()] == ["b.mkv"]


def test_after_a_failure_the_rest_of_a_video_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = make_video(tmp_path / "long.mkv", stamps=range(200))
    read: list[int] = []
    numbered = VideoReader.__iter__

    def counted(reader: VideoReader):  # type: ignore[no-untyped-def]
        for frame in numbered(reader):
            read.append(frame.number)
            yield frame

    monkeypatch.setattr(VideoReader, "__iter__", counted)
    restorer = Doubling()
    restorer.refused = 1
    assert len(restored(restorer, long, out=tmp_path / "out").failed) == 1
    assert len(read) < 50
