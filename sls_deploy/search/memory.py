"""What ends long work besides bad input, as errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sls_deploy.errors import SlsError

TRAINING = "Give a smaller --batch or --patch, or more parts with --accumulate."
"""What to do where training ran out of memory."""
RECONSTRUCTION = "Give a smaller --memory, --crops or --patch."
"""What to do where second-order work ran out of memory."""
_OVERWRITTEN = "modified by an inplace operation"
_TOLD = re.compile("can't allocate memory|out of memory", re.IGNORECASE)
"""How PyTorch says it: a RuntimeError, on the CPU without a type of its own."""


@contextmanager
def memory_for(work: str, fix: str) -> Iterator[None]:
    """Turn the end of memory, and a network that cannot be differentiated, into an error.

    Args:
        work: what it is needed for.
        fix: what to do.

    Raises:
        SlsError: memory ran out inside, or the network overwrites what gradients need.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if _OVERWRITTEN in str(error):
            what = "the network changes values in place that its gradients need"
            raise SlsError(what, work, "Write them anew: y = y * 2 in place of y *= 2.") from None
        if not isinstance(error, MemoryError) and not _TOLD.search(str(error)):
            raise
        raise SlsError("memory ran out", work, fix) from None
