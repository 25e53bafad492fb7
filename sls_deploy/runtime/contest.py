"""Opens all forms of a network that can run here, and times them in turn on one input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sls_deploy.engine.device import present_device
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import versions
from sls_deploy.runtime.added_memory import added_on_cpu, added_on_gpu
from sls_deploy.runtime.bench_result import BackendName, Bench, BenchRow, processor
from sls_deploy.runtime.benchmark import Timing, interleaved
from sls_deploy.runtime.runner import LayerTime, Pictures, Runner

_PROFILED = 20
"""Runs whose layers are timed."""


@dataclass(frozen=True)
class Contestant:
    """A form of the network that may be able to run here."""

    name: str
    """What reports call it."""
    backend: BackendName
    """What runs it."""
    device: Literal["cpu", "cuda"]
    """Where it runs."""
    open: Callable[[], Runner]
    """Gets it ready; raises SlsError where it cannot run."""
    reference: bool = False
    """Whether the others are compared with it."""


@dataclass(frozen=True)
class _Ready:
    """A contestant that restored the pictures once."""

    contestant: Contestant
    runner: Runner
    output_shape: tuple[int, ...]
    memory_mib: int | None


def hold_contest(
    target: str,
    budget: float | None,
    contestants: Sequence[Contestant],
    pictures: Pictures,
    *,
    warm_up: int,
    repeats: int,
    threads: int,
    profile: bool,
    not_run: dict[str, str],
    report: Report = silent,
) -> Bench:
    """Time all contestants that can run here, on the same pictures.

    Args:
        target: what is timed, for the file.
        budget: which budget of a run it is.
        contestants: in the order of the table.
        pictures: NCHW; what the contestants restore.
        warm_up: runs of each before those that count.
        repeats: runs of each that count.
        threads: on the CPU, for the file; the contestants use them by themselves.
        profile: whether to time layers, too, where a backend can.
        not_run: what is known not to run, with reasons.
        report: receives a report after each block of runs.

    Raises:
        SlsError: none of them can run; says why.
    """
    not_run = dict(not_run)
    before = present_device()
    ready = list(_ready(contestants, pictures, not_run, report))
    if not ready:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise SlsError(f"nothing of it can run here ({reasons or 'there is nothing'})", target)
    on_gpu = any(entry.contestant.device == "cuda" for entry in ready)
    try:
        stopwatches = [entry.runner.stopwatch(pictures) for entry in ready]
        timings = interleaved(
            stopwatches,
            warm_up,
            repeats,
            lambda done: report(Progress("time", done, repeats)),
        )
        layers = [
            entry.runner.profile(pictures, min(repeats, _PROFILED)) if profile else None
            for entry in ready
        ]
    finally:
        for entry in ready:
            entry.runner.close()
    return Bench(
        version=1,
        target=target,
        budget=budget,
        shape=pictures.shape,
        output_shape=ready[0].output_shape,
        processor=processor(),
        threads=threads,
        gpu=before if on_gpu else None,
        gpu_after=present_device() if on_gpu else None,
        versions=versions(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        warm_up=warm_up,
        repeats=repeats,
        rows=tuple(_rows(ready, timings, layers)),
        not_run=not_run,
    )


def _ready(
    contestants: Sequence[Contestant], pictures: Pictures, not_run: dict[str, str], report: Report
) -> Iterable[_Ready]:
    """Those that restored the pictures once; why the others did not goes to `not_run`."""
    for number, contestant in enumerate(contestants):
        report(Progress("load", number, len(contestants)))

        def first_run(contestant: Contestant = contestant) -> tuple[Runner, tuple[int, ...]]:
            runner = contestant.open()
            try:
                return runner, runner.run(pictures).shape
            except SlsError:
                runner.close()
                raise

        measured = added_on_gpu if contestant.device == "cuda" else added_on_cpu
        try:
            (runner, shape), memory = measured(first_run)
        except SlsError as error:
            not_run[contestant.name] = error.what
            continue
        yield _Ready(contestant, runner, shape, memory)
    report(Progress("load", len(contestants), len(contestants)))


def _rows(
    ready: Sequence[_Ready],
    timings: Sequence[Timing],
    layers: Sequence[tuple[LayerTime, ...] | None],
) -> Iterable[BenchRow]:
    references = {
        entry.contestant.device: timing
        for entry, timing in zip(ready, timings, strict=True)
        if entry.contestant.reference
    }
    for entry, timing, found in zip(ready, timings, layers, strict=True):
        contestant, (batch, _, height, width) = entry.contestant, entry.output_shape
        reference = references.get(contestant.device)
        yield BenchRow(
            name=contestant.name,
            backend=contestant.backend,
            device=contestant.device,
            timing=timing,
            pictures_per_second=timing.rate(batch),
            megapixels_per_second=timing.rate(batch * height * width / 1e6),
            ratio=timing.p50 / reference.p50 if reference else None,
            memory_mib=entry.memory_mib,
            note=_note(timing, entry.runner),
            layers=found,
        )


def _note(timing: Timing, runner: Runner) -> str:
    notes = []
    if timing.unstable:
        notes.append(
            f"unstable: one run in ten took {timing.p90 / timing.p50:.1f} times the median or more"
        )
    if runner.note:
        notes.append(runner.note)
    return "; ".join(notes)
