from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.config import RestoreConfig
from sls_deploy.data.images import read_image, write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic
from sls_deploy.pictures.still import open_still
from sls_deploy.progress import Progress, silent
from sls_deploy.restore import works
from sls_deploy.restore.choice_map import ChoiceMap
from sls_deploy.restore.pipeline import Pipeline
from sls_deploy.restore.sources import Job
from sls_deploy.restore.tiles import TileSizes
from tests.restore.doubling import Doubling

OPTIONS = RestoreConfig()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pieces of a photograph, of one tile and of several."""
    folder, cat = tmp_path_factory.mktemp("photos"), sample_photos()["chelsea"]
    sizes = {"a.png": (20, 30), "b.png": (90, 70), "c.png": (33, 120)}
    return [
        write_image(folder / name, cat[100 : 100 + height, 100 : 100 + width])
        for name, (height, width) in sizes.items()
    ]


def jobs(sources: Sequence[Path], out: Path) -> list[Job]:
    return [Job(source, out / source.name, "picture") for source in sources]


def test_every_picture_becomes_the_whole_of_its_tiles(photos: list[Path], tmp_path: Path) -> None:
    pipeline = Pipeline(Doubling(), OPTIONS, silent)
    pipeline.run(jobs(photos, tmp_path))
    assert pipeline.failed == []
    assert [Path(one.source).name for one in pipeline.restored] == ["a.png", "b.png", "c.png"]
    for one in pipeline.restored:
        given = read_image(Path(one.source))
        expected = given.repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(read_image(Path(one.target)), expected)
        assert (one.height, one.width) == given.shape[:2]


def test_tiles_of_one_picture_go_together_in_groups(photos: list[Path], tmp_path: Path) -> None:
    restorer = Doubling()
    Pipeline(restorer, OPTIONS, silent).run(jobs(photos[1:2], tmp_path))
    counts = [shape[0] for shape in restorer.groups]
    assert max(counts) == restorer.at_once
    assert len({shape[1:] for shape in restorer.groups}) == 1


def test_a_file_that_is_no_picture_is_told_and_the_others_go_on(
    photos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:200])
    out = tmp_path / "out"
    pipeline = Pipeline(Doubling(), OPTIONS, silent)
    pipeline.run(jobs([photos[0], broken, photos[1]], out))
    assert [failed.source for failed in pipeline.failed] == [str(broken)]
    assert str(broken) in pipeline.failed[0].reason
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]


def test_a_file_that_the_network_refuses_leaves_nothing_and_the_others_go_on(
    photos: list[Path], tmp_path: Path
) -> None:
    restorer = Doubling()
    restorer.refused = 1
    pipeline = Pipeline(restorer, OPTIONS, silent)
    pipeline.run(jobs([photos[1], photos[0]], tmp_path))
    assert [failed.reason for failed in pipeline.failed] == ["the network: cannot. Give up."]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert len(restorer.groups) == 2, "the rest of a file that failed is not restored"


def test_values_that_are_not_finite_are_no_picture(photos: list[Path], tmp_path: Path) -> None:
    class Broken(Doubling):
        def run(self, tiles):  # type: ignore[no-untyped-def]
            answer = super().run(tiles)
            answer.pixels[0, 0, 0, 0] = np.nan
            return answer

    pipeline = Pipeline(Broken(), OPTIONS, silent)
    pipeline.run(jobs(photos[:1], tmp_path))
    assert "not finite" in pipeline.failed[0].reason
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_no_half_file(photos: list[Path], tmp_path: Path) -> None:
    class Interrupted(Doubling):
        def run(self, tiles):  # type: ignore[no-untyped-def]
            if len(self.groups) == 3:
                raise KeyboardInterrupt
            return super().run(tiles)

    with pytest.raises(KeyboardInterrupt):
        Pipeline(Interrupted(), OPTIONS, silent).run(jobs(photos, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png"}


def test_an_interrupt_while_the_last_picture_is_encoded_leaves_no_half_file(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, seen = threading.Event(), []

    def slow(still, canvas, target, scale, quality, stopped):  # type: ignore[no-untyped-def]
        with atomic(target):
            encoding.set()
            wait_until(stopped)
            seen.append(stopped())
            raise SlsError("stopped")

    def wait_until(stopped: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not stopped() and time.monotonic() < deadline:
            time.sleep(0.01)

    def interrupt() -> None:
        encoding.wait(20)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(works, "save_still", slow)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Pipeline(Doubling(), OPTIONS, silent).run(jobs(photos[1:2], tmp_path))
    thread.join()
    assert seen == [True]
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_memory_runs_out_for_is_told_and_the_others_go_on(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = works.save_still

    def full(still, *rest):  # type: ignore[no-untyped-def]
        if still.path == photos[1]:
            raise MemoryError
        save(still, *rest)

    monkeypatch.setattr(works, "save_still", full)
    pipeline = Pipeline(Doubling(), OPTIONS, silent)
    pipeline.run(jobs(photos, tmp_path))
    assert [failed.source for failed in pipeline.failed] == [str(photos[1])]
    assert "memory" in pipeline.failed[0].reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]


def test_a_large_picture_that_fails_while_it_is_read_does_no_harm(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(works, "open_still", partial(open_still, in_memory=0))  # a scratch file
    restorer = Doubling()
    restorer.refused = 1
    pipeline = Pipeline(restorer, OPTIONS, silent)
    pipeline.run(jobs([photos[1], photos[0]], tmp_path))
    assert len(pipeline.failed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_margin_that_tiles_had_room_for_is_told(photos: list[Path], tmp_path: Path) -> None:
    pipeline = Pipeline(Doubling(TileSizes(32, 30, 4)), OPTIONS, silent)
    pipeline.run(jobs(photos[1:2], tmp_path))
    assert pipeline.margin < 30
    whole = Pipeline(Doubling(TileSizes(128, 30, 4)), OPTIONS, silent)
    whole.run(jobs(photos[1:2], tmp_path / "whole"))
    assert whole.margin == 30


def test_progress_tells_the_time_that_is_left(photos: list[Path], tmp_path: Path) -> None:
    told: list[Progress] = []
    Pipeline(Doubling(), OPTIONS, told.append).run(jobs(photos, tmp_path))
    assert told[-1] == Progress("restore", 3, 3)
    assert {report.task for report in told} == {"restore"}
    assert all(report.done <= report.total for report in told)
    assert any(report.figures.get("s left", -1) >= 0 for report in told[:-1])
    assert any("% of b.png" in report.figures for report in told)


def test_choices_are_counted_and_painted(photos: list[Path], tmp_path: Path) -> None:
    restorer, path = Doubling(adaptive=True), tmp_path / "map.png"
    pipeline = Pipeline(restorer, OPTIONS, silent, lambda _: ChoiceMap(path, restorer.names))
    pipeline.run(jobs(photos[1:2], tmp_path))
    one = pipeline.restored[0]
    assert sum(one.choices.values()) == one.tiles
    assert set(one.choices) == set(restorer.names)
    assert read_image(path).shape == (94, 70, 3)


def test_a_network_of_several_frames_takes_no_picture(photos: list[Path], tmp_path: Path) -> None:
    pipeline = Pipeline(Doubling(frames=3), OPTIONS, silent)
    pipeline.run(jobs(photos[:1], tmp_path))
    assert "takes 3 frames at once" in pipeline.failed[0].reason
