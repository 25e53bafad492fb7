from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sls_deploy.data.bicubic import upscale
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.data.truth import Pair, TruthFolder
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch
from sls_deploy.validate.figures import DENSE, Fidelity, PictureFigures, Quality, StageId
from sls_deploy.validate.measure import Stage, measure, summarise
from sls_deploy.validate.metrics import fidelity, luma, psnr_rgb, psnr_y, ssim_rgb, ssim_y, to_uint8


class Stub:
    """Runs a function on the batch."""

    note = ""

    def __init__(self, name: str, function: Callable[[Pictures], Pictures]) -> None:
        self.name = name
        self.run = function

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        raise NotImplementedError

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        raise NotImplementedError

    def close(self) -> None:
        """Hold nothing."""


def stage(
    name: str,
    function: Callable[[Pictures], Pictures],
    previous: str = "",
    reference: str = "",
) -> Stage:
    kind = "onnx" if reference else "sparse" if previous else "dense"
    identity = StageId(name, kind, "fp32", False, previous, reference)
    return Stage(identity, Stub(name, function))


def shifted(by: float) -> Callable[[Pictures], Pictures]:
    return lambda batch: batch + np.float32(by)


def bicubic(batch: Pictures) -> Pictures:
    picture = np.rint(batch[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    return (upscale(picture, 2).transpose(2, 0, 1)[None] / 255).astype(np.float32)


def restored(function: Callable[[Pictures], Pictures], pair: Pair) -> Pictures:
    return function((pair.lr.transpose(2, 0, 1)[None] / 255).astype(np.float32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A part of a photograph."""
    write_image(tmp_path / "eye.png", sample_photos()["chelsea"][80:120, 140:190])
    return tmp_path


@pytest.fixture
def pairs() -> list[Pair]:
    """Parts of a photograph, of several sizes."""
    photo = sample_photos()["chelsea"]
    crops = [photo[60 : 60 + 20 + 2 * size, 100 : 150 - size] for size in range(6)]
    return [Pair(f"{size}.png", crop, crop) for size, crop in enumerate(crops)]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_bicubic_gets_the_figures_of_bicubic(folder: Path) -> None:
    truth = TruthFolder(folder, Bicubic(2))
    ((figures,),) = measure(truth, [stage(DENSE, bicubic)], 2)
    (pair,) = truth
    assert pair.hr is not None
    picture = upscale(pair.lr, 2)
    error = (luma(picture) - luma(pair.hr))[2:-2, 2:-2]
    assert figures.name == "eye.png"
    assert figures.quality is not None
    assert figures.quality.psnr_y == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))
    assert figures.quality.psnr_y == pytest.approx(psnr_y(picture, pair.hr, 2))
    assert figures.quality.psnr_rgb == pytest.approx(psnr_rgb(picture, pair.hr, 2))
    assert figures.quality.ssim_y == ssim_y(picture, pair.hr, 2)
    assert figures.quality.ssim_rgb == ssim_rgb(picture, pair.hr, 2)
    assert figures.quality.lpips is None
    assert (figures.to_previous, figures.to_reference) == (None, None)


def test_stages_are_compared_with_those_that_they_name(pairs: list[Pair]) -> None:
    """A shift of a thousandth is lost in 8 bits, and 60 dB in floating point."""
    forms = {"sparse": shifted(0.1), "a": shifted(0.101), "b": shifted(0.111)}
    stages = [
        stage(DENSE, shifted(0)),
        stage("sparse", forms["sparse"], DENSE),
        stage("a", forms["a"], "sparse", "sparse"),
        stage("b", forms["b"], "a", "sparse"),
    ]
    for pair, (dense, sparse, a, b) in zip(pairs, measure(pairs, stages, 0), strict=True):
        one, other, last = (restored(forms[name], pair) for name in ("sparse", "a", "b"))
        assert (dense.to_previous, dense.to_reference) == (None, None)
        assert sparse.to_previous is not None
        assert sparse.to_previous.psnr_db == pytest.approx(20, abs=0.01)
        assert sparse.to_reference is None
        assert a.to_previous == a.to_reference == fidelity(other, one)
        assert a.to_previous.psnr_db == pytest.approx(60, abs=0.01)
        assert b.to_previous == fidelity(last, other)
        assert b.to_reference == fidelity(last, one)
        assert b.to_reference.max_error == pytest.approx(0.011, abs=1e-6)


def test_equal_outputs_have_no_fidelity_in_db(pairs: list[Pair]) -> None:
    stages = [stage(DENSE, shifted(0)), stage("sparse", shifted(0), DENSE)]
    assert [row[1].to_previous for row in measure(pairs, stages, 0)] == [Fidelity(None, 0, 0)] * 6


def test_one_level_of_error_has_its_known_psnr(folder: Path) -> None:
    """One level of 255 is 219/255 of a level of luma."""
    truth = TruthFolder(folder, Bicubic(1))
    ((figures,),) = measure(truth, [stage(DENSE, shifted(1 / 255))], 0)
    assert figures.quality is not None
    assert figures.quality.psnr_y == pytest.approx(20 * np.log10(255 / (219 / 255)), abs=0.05)
    assert figures.quality.psnr_rgb == pytest.approx(20 * np.log10(255), abs=0.05)


def test_pictures_come_in_order_with_the_figures_of_one_alone(pairs: list[Pair]) -> None:
    stages = [stage(DENSE, shifted(0.02)), stage("sparse", shifted(0.03), DENSE)]
    rows = list(measure(pairs, stages, 2))
    assert [row[0].name for row in rows] == [pair.name for pair in pairs]
    for pair, row in zip(pairs, rows, strict=True):
        (alone,) = measure([pair], stages, 2)
        assert [replace(one, seconds=0) for one in row] == [
            replace(one, seconds=0) for one in alone
        ]


def test_without_truth_only_fidelity_is_measured(pairs: list[Pair]) -> None:
    given = [replace(pair, hr=None) for pair in pairs]
    stages = [stage(DENSE, shifted(0)), stage("sparse", shifted(0.1), DENSE)]
    rows = list(measure(given, stages, 0))
    assert [one.quality for row in rows for one in row] == [None] * 12
    assert all(row[1].to_previous is not None for row in rows)
    assert summarise(stages[1].id, [row[1] for row in rows]).quality is None


def test_lpips_gets_what_is_left_after_shaving(pairs: list[Pair]) -> None:
    seen = []

    def lpips(a: object, b: object) -> float:
        assert isinstance(a, np.ndarray)
        assert isinstance(b, np.ndarray)
        seen.append((a, b))
        return float(len(seen))

    stages = [stage(DENSE, shifted(0)), stage("sparse", shifted(0.1), DENSE)]
    (row,) = measure(pairs[:1], stages, 3, lpips)
    assert [one.quality.lpips for one in row if one.quality] == [1.0, 2.0]
    truth = pairs[0].hr
    assert truth is not None
    for picture, expected in seen:
        np.testing.assert_array_equal(expected, truth[3:-3, 3:-3])
        assert picture.shape == expected.shape
    np.testing.assert_array_equal(seen[0][0], truth[3:-3, 3:-3])


def test_time_of_inference_alone_counts(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: seconds[0])
    monkeypatch.setattr("sls_deploy.validate.measure.time", clock)

    def slow(batch: Pictures) -> Pictures:
        seconds[0] += 5
        return batch

    (row,) = measure(pairs[:1], [stage(DENSE, slow), stage("sparse", shifted(0), DENSE)], 0)
    assert [one.seconds for one in row] == [5, 0]


def test_what_comes_next_is_read_while_the_network_works(pairs: list[Pair]) -> None:
    """The network waits for the next picture to be read, which would never be without a thread."""
    read = [threading.Event() for _ in pairs]

    def slowly() -> Iterator[Pair]:
        for event, pair in zip(read, pairs, strict=True):
            event.set()
            yield pair

    turns = iter(range(len(pairs)))

    def run(batch: Pictures) -> Pictures:
        following = min(next(turns) + 1, len(pairs) - 1)
        assert read[following].wait(10)
        return batch

    assert len(list(measure(slowly(), [stage(DENSE, run)], 0))) == len(pairs)


def test_last_picture_is_measured_while_the_network_works(pairs: list[Pair]) -> None:
    measured = [threading.Event() for _ in pairs]
    turns, measures = iter(range(len(pairs))), iter(measured)

    def run(batch: Pictures) -> Pictures:
        turn = next(turns)
        assert turn == 0 or measured[turn - 1].wait(10)
        return batch

    def lpips(a: object, b: object) -> float:
        next(measures).set()
        return 0.0

    assert len(list(measure(pairs, [stage(DENSE, run)], 0, lpips))) == len(pairs)


def test_few_pictures_are_read_ahead(pairs: list[Pair]) -> None:
    read = 0

    def counted() -> Iterator[Pair]:
        nonlocal read
        for _ in range(50):
            read += 1
            yield pairs[0]

    for done, _ in enumerate(measure(counted(), [stage(DENSE, shifted(0))], 0), start=1):
        assert read <= done + 4


def test_picture_that_cannot_be_read_ends_the_work(pairs: list[Pair]) -> None:
    def damaged() -> Iterator[Pair]:
        yield from pairs[:3]
        raise SlsError("cannot be read as a picture", "3.png")

    rows = measure(damaged(), [stage(DENSE, shifted(0))], 0)
    with pytest.raises(SlsError, match=r"3\.png: cannot be read"):
        list(rows)


@pytest.mark.parametrize("error", [SlsError("failed", "ONNX"), KeyboardInterrupt(), ValueError()])
def test_runner_that_raises_ends_the_work(pairs: list[Pair], error: BaseException) -> None:
    turns = iter(range(10))

    def run(batch: Pictures) -> Pictures:
        if next(turns) == 2:
            raise error
        return batch

    with pytest.raises(type(error)) as raised:
        list(measure(pairs, [stage(DENSE, run)], 0))
    assert raised.value is error


def test_measuring_that_fails_ends_the_work_before_the_next_stage(pairs: list[Pair]) -> None:
    failed, runs = threading.Event(), []

    def lpips(a: object, b: object) -> float:
        failed.set()
        raise SlsError("no weights", "LPIPS")

    def run(batch: Pictures) -> Pictures:
        runs.append(batch)
        if len(runs) == 3:  # the second picture in the first stage
            assert failed.wait(10)
            time.sleep(0.05)
        return batch

    stages = [stage(DENSE, run), stage("sparse", run, DENSE)]
    with pytest.raises(SlsError, match="LPIPS: no weights"):
        list(measure(pairs, stages, 0, lpips))
    assert len(runs) == 3


def test_generator_can_be_closed_early(pairs: list[Pair]) -> None:
    rows = measure(pairs, [stage(DENSE, shifted(0))], 0)
    assert next(rows)[0].name == "0.png"
    assert {thread.name[:6] for thread in threading.enumerate()} >= {"decode", "measur"}
    rows.close()


def test_interrupted_consumer_leaves_no_thread(pairs: list[Pair]) -> None:
    def consume() -> None:
        for _ in measure(pairs, [stage(DENSE, shifted(0))], 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        consume()
    raised.value.__traceback__ = None
    del raised


def test_nothing_runs_before_the_first_picture_is_asked_for(pairs: list[Pair]) -> None:
    before = threading.active_count()
    measure(pairs, [stage(DENSE, shifted(0))], 0)
    assert threading.active_count() == before


def test_overflow_names_the_stage_and_the_picture(pairs: list[Pair]) -> None:
    broken = stage("ONNX fp16", lambda batch: batch * np.float32(np.nan), DENSE, DENSE)
    for given in (pairs, [replace(pair, hr=None) for pair in pairs]):
        with pytest.raises(SlsError, match=r"ONNX fp16 on 0\.png: .*not finite"):
            list(measure(given, [stage(DENSE, shifted(0)), broken], 0))


def test_output_of_another_size_names_the_stage_and_the_picture(pairs: list[Pair]) -> None:
    cut = stage("ONNX", lambda batch: batch[:, :, 1:], DENSE, DENSE)
    stages = [stage(DENSE, shifted(0)), cut]
    with pytest.raises(SlsError, match=r"ONNX on 0\.png: gives 50x19, where the truth is 50x20"):
        list(measure(pairs, stages, 0))
    with pytest.raises(SlsError, match=r"ONNX beside dense PyTorch on 0\.png: .*different shapes"):
        list(measure([replace(pair, hr=None) for pair in pairs], stages, 0))


def test_deblurred_picture_is_measured_whole_in_all_colours(folder: Path) -> None:
    (pair,) = TruthFolder(folder, Bicubic(1))
    assert pair.hr is not None
    red = (pair.hr.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    red[:, 0, 0, 0] = 1 - red[:, 0, 0, 0].round()
    ((figures,),) = measure([pair], [stage("one corner", lambda _: red)], 0)
    error = to_uint8(red[0].transpose(1, 2, 0)).astype(float) - pair.hr
    assert figures.quality is not None
    expected = 10 * np.log10(255**2 / (error**2).mean())
    assert figures.quality.psnr_rgb == pytest.approx(expected)
    assert 40 < figures.quality.psnr_rgb < 100


def test_exact_picture_counts_as_100_db(pairs: list[Pair]) -> None:
    ((figures,),) = measure(pairs[:1], [stage(DENSE, shifted(0))], 0)
    assert figures.quality is not None
    assert figures.quality.psnr_y == figures.quality.psnr_rgb == 100


def test_stage_takes_means_of_quality_and_the_worst_fidelity() -> None:
    rows = [
        PictureFigures("a", Quality(30, 29, 0.8, 0.7, 0.2), Fidelity(90, 1e-4, 1e-5), None, 0.25),
        PictureFigures("b", Quality(34, 33, 0.9, 0.8, 0.3), Fidelity(None, 0, 0), None, 0.5),
        PictureFigures("c", Quality(32, 31, 1.0, 0.9, 0.4), Fidelity(70, 2e-4, 9e-5), None, 0.25),
    ]
    found = summarise(stage("ONNX", bicubic).id, rows)
    assert found.quality is not None
    assert found.quality.lpips == pytest.approx(0.3)
    assert replace(found.quality, lpips=None) == Quality(
        32, 31, pytest.approx(0.9), pytest.approx(0.8), None
    )
    assert found.to_previous == Fidelity(70, 2e-4, 9e-5)
    assert found.to_reference is None
    assert (found.name, found.seconds, found.pictures) == ("ONNX", 1.0, tuple(rows))


def test_stage_that_is_equal_everywhere_has_no_decibels() -> None:
    quality = Quality(30, 29, 0.8, 0.7, None)
    rows = [PictureFigures(name, quality, None, Fidelity(None, 0, 0), 0.1) for name in "ab"]
    found = summarise(stage("ONNX", bicubic).id, rows)
    assert found.to_reference == Fidelity(None, 0, 0)
    assert found.quality == quality
