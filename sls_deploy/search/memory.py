"""Memory that runs out, as an error that names the settings to lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sls_deploy.errors import SlsError

TRAINING = "Give a smaller --batch or --patch, or more parts with --accumulate."
"""What to do where training ran out of memory."""
RECONSTRUCTION = "Give a smaller --memory, --crops or --patch."
"""What to do where second-order work ran out of memory."""
_TOLD = re.compile("can't allocate memory|out of memory", re.IGNORECASE)
"""How PyTorch says it: a RuntimeError, on the CPU without a type of its own."""


@contextmanager
def memory_for(work: str, fix: str) -> Iterator[None]:
    """Turn the end of memory into an error.

    Args:
        work: what it is needed for.
        fix: what to do.

    Raises:
        SlsError: memory ran out inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _TOLD.search(str(error)):
            raise
        raise SlsError("memory ran out", work, fix) from None
