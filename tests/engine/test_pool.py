from __future__ import annotations

import threading
import time
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.engine.pool import Finished, work_through
from sls_deploy.engine.process import MemoryLimitError
from sls_deploy.errors import SlsError

needs = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


def ends(found: list[Finished[int, int]]) -> dict[int, int | str]:
    return {end.job: end.answer if end.error is None else str(end.error) for end in found}  # type: ignore[misc]


@given(needs, st.integers(1, 4), st.integers(50, 900))
def test_every_job_that_fits_alone_is_done_and_no_other(
    wanted: list[int], at_once: int, memory: int
) -> None:
    def work(job: int, share: int, _: Event) -> int:
        if wanted[job] > share:
            raise MemoryLimitError("too large")
        return wanted[job]

    found = ends(list(work_through(range(len(wanted)), at_once, memory, work)))
    assert found == {
        job: need if need <= memory else "too large" for job, need in enumerate(wanted)
    }


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_shares_of_those_at_work_never_exceed_the_memory(at_once: int) -> None:
    lock, taken, seen = threading.Lock(), [0], []

    def work(job: int, share: int, _: Event) -> int:
        with lock:
            taken[0] += share
            seen.append(taken[0])
        time.sleep(0.02)
        with lock:
            taken[0] -= share
        if job % 3 == 0 and share < 900:
            raise MemoryLimitError("too large")
        return job

    list(work_through(range(6), at_once, 900, work))
    assert max(seen) <= 900
    assert max(seen) > 900 - at_once


def test_jobs_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)

    def work(job: int, share: int, _: Event) -> int:
        both.wait()
        return share

    assert ends(list(work_through([1, 2], 2, 1000, work))) == {1: 500, 2: 500}


def test_a_job_that_fails_does_not_stop_the_others() -> None:
    def work(job: int, share: int, _: Event) -> int:
        if job == 2:
            raise SlsError("refused", "job 2")
        return job

    found = ends(list(work_through([1, 2, 3], 1, 1000, work)))
    assert found == {1: 1, 2: "job 2: refused", 3: 3}


def test_a_bug_is_not_taken_for_a_refusal() -> None:
    def work(job: int, share: int, _: Event) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(work_through([1], 1, 1000, work))


def test_leaving_early_stops_what_runs() -> None:
    begun, stopped = Event(), []

    def work(job: int, share: int, stop: Event) -> int:
        if job == 2:
            begun.set()
            stopped.append(stop.wait(20))
        else:
            assert begun.wait(20)
        return job

    done = work_through([1, 2], 2, 1000, work)
    assert next(done).job == 1
    done.close()  # type: ignore[attr-defined]
    assert stopped == [True]
