"""Runs several builds at a time within one limit of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event
from typing import Generic, TypeVar

from sls_deploy.engine.process import MemoryLimitError
from sls_deploy.errors import SlsError

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Finished(Generic[Job, Answer]):
    """A job that came to an end."""

    job: Job
    """Which one."""
    answer: Answer | None
    """What it gave; None if it failed."""
    error: SlsError | None
    """Why it failed; None if it did not."""


def work_through(
    jobs: Sequence[Job],
    at_once: int,
    memory_mib: int,
    work: Callable[[Job, int, Event], Answer],
) -> Iterator[Finished[Job, Answer]]:
    """Do jobs in parallel, each within its share of the memory; yield each when it ends.

    A job that needs more than its share is done again alone, with all of the memory, after the
    others. A job that fails does not stop the others.

    Args:
        jobs: what to do.
        at_once: how many at a time.
        memory_mib: memory for all of them together, in MiB.
        work: does one job within that many MiB, and gives up when the event is set; raises
            MemoryLimitError if it needs more, another SlsError if it fails.
    """
    share = memory_mib // max(1, min(at_once, len(jobs)))
    large = []
    stop = Event()
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        running = {pool.submit(work, job, share, stop): job for job in jobs}
        try:
            for future in as_completed(running):
                job, error = running[future], future.exception()
                if isinstance(error, MemoryLimitError) and share < memory_mib:
                    large.append(job)
                elif isinstance(error, SlsError):
                    yield Finished(job, None, error)
                else:
                    yield Finished(job, future.result(), None)
        finally:
            # An interrupt must not wait for what still runs.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    for job in large:
        try:
            answer = work(job, memory_mib, Event())
        except SlsError as error:
            yield Finished(job, None, error)
        else:
            yield Finished(job, answer, None)
