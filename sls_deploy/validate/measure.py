"""Quality and fidelity of every stage on every picture, measured while the next one is restored."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sls_deploy.data.truth import Pair
from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.validate.figures import Fidelity, PictureFigures, Quality, StageFigures, StageId
from sls_deploy.validate.metrics import fidelity, qualities, to_uint8
from sls_deploy.validate.ssim import Similarity

Lpips = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""LPIPS of a picture and its truth, uint8 HWC RGB; see `lpips.py`."""

_AHEAD = 2
"""Inputs that are made ready before their turn."""


@dataclass(frozen=True)
class Stage:
    """One form of the network, ready to run."""

    id: StageId
    """What it is."""
    runner: Runner
    """What runs it."""


def measure(
    pairs: Iterable[Pair], stages: Sequence[Stage], shave: int, lpips: Lpips | None = None
) -> Iterator[list[PictureFigures]]:
    """Restore each picture by every stage; one list of figures a picture, in the order of stages.

    Inference runs in the caller's thread. Meanwhile one thread decodes and degrades the next
    pictures, and one measures the last. Both end with the generator, also when it is closed early
    or interrupted. Memory does not grow with the number of pictures.

    Args:
        pairs: inputs and truths; iterated in another thread.
        stages: forms of the network, with those that others name as `previous` or `reference`.
        shave: pixels cut from every side before comparing with the truth.
        lpips: measures LPIPS, too; called in another thread.

    Raises:
        SlsError: a picture cannot be read, a stage cannot restore it, gives values that are not
            finite, or another size than the truth's.
    """
    meter = _Meter(stages, shave, lpips)
    waiting: Future[list[PictureFigures]] | None = None
    with _worker("decode") as decoder, _worker("measure") as measurer:
        for pair, degraded in _prepared(pairs, decoder):
            outputs, seconds = [], []
            for stage in stages:
                start = time.perf_counter()
                outputs.append(stage.runner.run(degraded))
                seconds.append(time.perf_counter() - start)
                # Between the stages, so that what went wrong with the last picture ends the work.
                if waiting is not None and waiting.done():
                    yield waiting.result()
                    waiting = None
            if waiting is not None:
                yield waiting.result()
            waiting = measurer.submit(meter.figures, pair, outputs, seconds)
        if waiting is not None:
            yield waiting.result()


def summarise(stage: StageId, pictures: Sequence[PictureFigures]) -> StageFigures:
    """Figures of a set: means of quality, the worst of fidelity.

    Args:
        stage: which.
        pictures: each picture, at least one.
    """
    return StageFigures(
        stage=stage,
        quality=_mean([figures.quality for figures in pictures if figures.quality]),
        to_previous=_worst([figures.to_previous for figures in pictures if figures.to_previous]),
        to_reference=_worst([figures.to_reference for figures in pictures if figures.to_reference]),
        seconds=round(sum(figures.seconds for figures in pictures), 3),
        pictures=tuple(pictures),
    )


class _Meter:
    """Figures of one picture after the other, in one thread."""

    def __init__(self, stages: Sequence[Stage], shave: int, lpips: Lpips | None) -> None:
        self._stages, self._shave, self._lpips = [stage.id for stage in stages], shave, lpips
        self._similarity = Similarity()

    def figures(
        self, pair: Pair, outputs: Sequence[Pictures], seconds: Sequence[float]
    ) -> list[PictureFigures]:
        """Figures of every stage's output."""
        named = {stage.name: output for stage, output in zip(self._stages, outputs, strict=True)}
        qualities = self._qualities(pair, named)
        found = []
        for stage, quality, taken in zip(self._stages, qualities, seconds, strict=True):
            to_previous = _compared(pair, stage, stage.previous, named)
            same = stage.previous == stage.reference
            to_reference = to_previous if same else _compared(pair, stage, stage.reference, named)
            found.append(
                PictureFigures(pair.name, quality, to_previous, to_reference, round(taken, 4))
            )
        return found

    def _qualities(self, pair: Pair, outputs: Mapping[str, Pictures]) -> Sequence[Quality | None]:
        levels = []
        for name, output in outputs.items():
            with _told(name, pair):
                picture = to_uint8(output[0]).transpose(1, 2, 0)
                if pair.hr is not None and picture.shape != pair.hr.shape:
                    sizes = [f"{shape[1]}x{shape[0]}" for shape in (picture.shape, pair.hr.shape)]
                    raise SlsError(f"gives {sizes[0]}, where the truth is {sizes[1]}")
            levels.append(picture)
        if pair.hr is None:
            return [None] * len(levels)
        found = qualities(pair.hr, levels, self._shave, self._similarity)
        if self._lpips is None:
            return found
        inner = np.s_[
            self._shave : pair.hr.shape[0] - self._shave,
            self._shave : pair.hr.shape[1] - self._shave,
        ]
        return [
            replace(quality, lpips=self._lpips(picture[inner], pair.hr[inner]))
            for quality, picture in zip(found, levels, strict=True)
        ]


def _compared(
    pair: Pair, stage: StageId, other: str, outputs: Mapping[str, Pictures]
) -> Fidelity | None:
    if not other:
        return None
    with _told(f"{stage.name} beside {other}", pair):
        return fidelity(outputs[stage.name], outputs[other])


@contextmanager
def _told(stage: str, pair: Pair) -> Iterator[None]:
    """Errors say which stage and picture they are about."""
    try:
        yield
    except SlsError as error:
        raise SlsError(error.what, f"{stage} on {pair.name}", error.fix) from None


def _mean(pictures: Sequence[Quality]) -> Quality | None:
    if not pictures:
        return None

    def mean(name: str) -> float:
        return float(np.mean([getattr(quality, name) for quality in pictures]))

    return Quality(
        psnr_y=mean("psnr_y"),
        psnr_rgb=mean("psnr_rgb"),
        ssim_y=mean("ssim_y"),
        ssim_rgb=mean("ssim_rgb"),
        lpips=None if pictures[0].lpips is None else mean("lpips"),
    )


def _worst(pictures: Sequence[Fidelity]) -> Fidelity | None:
    if not pictures:
        return None
    return Fidelity(
        psnr_db=min((one.psnr_db for one in pictures if one.psnr_db is not None), default=None),
        max_error=max(one.max_error for one in pictures),
        p999_error=max(one.p999_error for one in pictures),
    )


def _prepared(
    pairs: Iterable[Pair], decoder: ThreadPoolExecutor
) -> Iterator[tuple[Pair, Pictures]]:
    """Pairs with the network's input, made ready ahead in another thread."""
    iterator = iter(pairs)

    def prepare() -> tuple[Pair, Pictures] | None:
        pair = next(iterator, None)
        return None if pair is None else (pair, pair.degraded)

    waiting = deque(decoder.submit(prepare) for _ in range(_AHEAD))
    while found := waiting.popleft().result():
        waiting.append(decoder.submit(prepare))
        yield found


@contextmanager
def _worker(name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread that ends here, whatever happens; what it has begun is finished first."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
