from __future__ import annotations

import threading
import time

import pytest
import torch

from sls_deploy.data.feed import Batch, Feed


def numbered(step: int) -> Batch:
    return torch.tensor(step), torch.tensor(-step)


def running() -> bool:
    return any(thread.name == "feed" for thread in threading.enumerate())


def test_batches_come_in_the_order_of_the_steps() -> None:
    with Feed(numbered, start=3, stop=9) as feed:
        found = [feed.batch(step) for step in range(3, 9)]
    assert [(int(lr), int(hr)) for lr, hr in found] == [(step, -step) for step in range(3, 9)]


def test_no_more_batches_are_prepared_than_are_kept_ready() -> None:
    made: list[int] = []
    reached = threading.Semaphore(0)

    def batches(step: int) -> Batch:
        made.append(step)
        reached.release()
        return numbered(step)

    with Feed(batches, start=0, stop=100, ahead=3) as feed:
        for _ in range(3):
            assert reached.acquire(timeout=60)
        time.sleep(0.05)
        assert made == [0, 1, 2]
        feed.batch(0)
        assert reached.acquire(timeout=60)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]


def test_an_error_comes_up_in_the_step_that_needs_the_batch() -> None:
    def batches(step: int) -> Batch:
        if step == 2:
            raise OSError("the disk is gone")
        return numbered(step)

    with Feed(batches, start=0, stop=9, ahead=5) as feed:
        assert [int(feed.batch(step)[0]) for step in range(2)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            feed.batch(2)
    assert not running()


@pytest.mark.parametrize("asked", [4, 6, 9])
def test_a_step_out_of_turn_is_refused(asked: int) -> None:
    with Feed(numbered, start=5, stop=9) as feed, pytest.raises(ValueError, match="at 5 of 9"):
        feed.batch(asked)


def test_the_thread_ends_with_its_context_whatever_happens() -> None:
    def interrupted(feed: Feed) -> None:
        with feed:
            feed.batch(0)
            assert running()
            raise KeyboardInterrupt

    feed = Feed(numbered, start=0, stop=1000)
    with pytest.raises(KeyboardInterrupt):
        interrupted(feed)
    assert not running()
    with pytest.raises(ValueError, match="step 1"):
        feed.batch(1)


def test_waiting_for_batches_is_measured() -> None:
    gate = threading.Event()

    def gated(step: int) -> Batch:
        gate.wait(60)
        return numbered(step)

    with Feed(gated, start=0, stop=4) as feed:
        assert feed.share == 0
        timer = threading.Timer(0.2, gate.set)
        timer.start()
        feed.batch(0)
        starved = feed.share
        timer.join()
        time.sleep(0.1)
        assert 0 < feed.share < starved <= 1
