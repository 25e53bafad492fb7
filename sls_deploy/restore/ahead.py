"""Work that goes on in another thread while this one is busy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

_END = object()
# Threads are waited for by an event: in Python 3.11 a `join` that is interrupted takes the thread
# for ended (bpo-45274), so that a second one does not wait.
_WAIT = 0.1
"""Seconds after which a thread that waits for room looks whether it is still needed."""


class Ahead(Generic[Item]):
    """Runs an iterator ahead in a thread. Leave it as a context: that ends the thread.

    Args:
        items: what is iterated; used and closed in the thread only.
        depth: items that are kept ready at most.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[object] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stopped, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._work, name="decode", daemon=True).start()

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._ended.wait()

    def __iter__(self) -> Iterator[Item]:
        while (item := self._ready.get()) is not _END:
            yield item  # type: ignore[misc]
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # it belongs to whoever iterates
            self._error = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
            self._put(_END)
            self._ended.set()

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=_WAIT)
            except queue.Full:
                continue
            return True
        return False


class Behind:
    """Does pieces of work in their order in one thread. Leave it as a context: that ends it.

    Call `finish` at the end: what waits when the context is left without it stays undone.

    Args:
        depth: pieces that may wait; `do` waits while there are more, so that memory stays flat.
    """

    def __init__(self, depth: int) -> None:
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(depth)
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._work, name="encode", daemon=True).start()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._ended.wait()

    def do(self, work: Callable[[], None]) -> None:
        """Have a piece of work done.

        Raises:
            BaseException: what an earlier piece raised.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put(work)

    def finish(self) -> None:
        """Wait until all that was given is done.

        Raises:
            BaseException: what a piece raised.
        """
        self._waiting.put(None)
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._work_off()
        finally:
            self._ended.set()

    def _work_off(self) -> None:
        while not self._stopped.is_set():
            try:
                work = self._waiting.get(timeout=_WAIT)
            except queue.Empty:
                continue
            if work is None:
                return
            try:
                if self._error is None:
                    work()
            except BaseException as error:  # it belongs to whoever gives more, or waits for it
                self._error = error
