"""How much memory a process took."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def peak_mib(process: int | None = None) -> int:
    """Peak resident memory of a process so far, in MiB.

    The kernel's account of the process is asked, because the figure of getrusage is inherited from
    the parent at the start; that one serves where there is no such account.

    Args:
        process: its number; None for this one.

    Returns:
        0 for another process that has ended, or where the kernel does not tell.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text("ascii", "replace")
    except OSError:
        status = ""
    if found := _PEAK.search(status):
        return int(found[1]) // 1024
    return 0 if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
