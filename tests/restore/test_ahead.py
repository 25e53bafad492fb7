from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from sls_deploy.restore.ahead import Ahead, Behind


def counting(stop: int, seen: list[int], closed: threading.Event) -> Iterator[int]:
    try:
        for number in range(stop):
            seen.append(number)
            yield number
    finally:
        closed.set()


def assert_ends(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(5)
            assert not thread.is_alive()


def test_items_come_in_their_order() -> None:
    with Ahead(iter(range(100)), 3) as items:
        assert list(items) == list(range(100))


def test_an_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with Ahead(broken(), 2) as items:
        iterator = iter(items)
        assert next(iterator) == 1
        with pytest.raises(ValueError, match="broken"):
            next(iterator)


def test_it_runs_no_further_ahead_than_it_may() -> None:
    seen: list[int] = []
    closed = threading.Event()
    with Ahead(counting(100, seen, closed), 2) as items:
        iterator = iter(items)
        for wanted in range(5):
            assert next(iterator) == wanted
        assert len(seen) <= 5 + 2 + 1
    assert len(seen) <= 5 + 2 + 2


def test_leaving_early_ends_the_thread_and_closes_what_it_read() -> None:
    seen: list[int] = []
    closed = threading.Event()

    def interrupted() -> None:
        with Ahead(counting(100, seen, closed), 1) as items:
            next(iter(items))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert closed.is_set()
    assert_ends("decode")


def test_work_is_done_in_its_order_before_the_end() -> None:
    done: list[int] = []
    with Behind(2) as writer:
        for number in range(50):
            writer.do(partial(done.append, number))
        writer.finish()
    assert done == list(range(50))


def test_an_error_of_work_reaches_the_one_who_gives_it() -> None:
    def broken() -> None:
        raise ValueError("full")

    with Behind(2) as writer:
        writer.do(broken)
        with pytest.raises(ValueError, match="full"):
            writer.finish()


def test_after_an_interrupt_what_waits_is_left_undone() -> None:
    done: list[int] = []
    gate = threading.Event()

    def interrupted() -> None:
        with Behind(5) as writer:
            writer.do(partial(gate.wait, 10.0))  # type: ignore[arg-type]
            writer.do(partial(done.append, 1))
            threading.Timer(0.1, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == []
    assert_ends("encode")
