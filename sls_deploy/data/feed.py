"""Batches prepared ahead of the steps that need them, and how long the steps wait for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType

from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Degraded and true crops."""


class Feed:
    """A thread that prepares the batches of the next steps while a step is at work.

    It gives `batches(step)` for each step in turn, so results do not depend on its pace. Leave it
    as a context: that ends the thread, also after an error.

    Args:
        batches: makes the batch of a step; called in the thread, by nobody else meanwhile.
        start: first step.
        stop: step after the last.
        ahead: batches that are kept ready at most.
    """

    def __init__(
        self, batches: Callable[[int], Batch], start: int, stop: int, ahead: int = 2
    ) -> None:
        self._batches, self._next, self._stop = batches, start, stop
        self._room = threading.Semaphore(ahead)
        self._ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        self._closed = False
        self._waited = 0.0
        self._began = time.perf_counter()
        self._thread = threading.Thread(
            target=self._prepare, args=(start,), name="feed", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def batch(self, step: int) -> Batch:
        """The batch of the next step.

        Raises:
            ValueError: it is another step's turn, or there are no more.
            Exception: what making this batch raised.
        """
        if step != self._next or step >= self._stop or self._closed:
            raise ValueError(f"step {step} of a feed that is at {self._next} of {self._stop}")
        before = time.perf_counter()
        found = self._ready.get()
        self._waited += time.perf_counter() - before
        if isinstance(found, BaseException):
            self.close()
            raise found
        self._next += 1
        self._room.release()
        return found

    @property
    def share(self) -> float:
        """Share of the time since the start in which steps waited for their batch, 0..1."""
        return min(1.0, self._waited / max(time.perf_counter() - self._began, 1e-9))

    def close(self) -> None:
        """End the thread; a batch that it is at work on is finished first."""
        self._closed = True
        self._room.release()
        self._thread.join()

    def _prepare(self, start: int) -> None:
        for step in range(start, self._stop):
            self._room.acquire()
            if self._closed:
                return
            try:
                self._ready.put(self._batches(step))
            except BaseException as error:  # it belongs to the step that needs the batch
                self._ready.put(error)
                return
