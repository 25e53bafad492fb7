"""How much memory a piece of work makes the process take more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sls_deploy.process_memory import peak_mib

_RESET_PEAK = "5"
"""What Linux wants in /proc/self/clear_refs to forget a process's peak memory; see proc(5)."""
_MIB = 2**20

Result = TypeVar("Result")


def added_on_cpu(work: Callable[[], Result]) -> tuple[Result, int | None]:
    """Do some work, and tell by how much the resident memory rose at its peak, in MiB.

    None where the system does not tell. What earlier work left free in the process is used first,
    so the figure of small work may be too small.
    """
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, "ascii")
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return work(), None
    result = work()
    return result, max(0, peak_mib() - pages * os.sysconf("SC_PAGE_SIZE") // _MIB)


def added_on_gpu(work: Callable[[], Result]) -> tuple[Result, int | None]:
    """Do some work, and tell by how much the free memory of the first visible GPU fell, in MiB.

    What allocators keep for later is in it. Another program that uses the GPU disturbs it. None
    where PyTorch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return work(), None
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    result = work()
    torch.cuda.synchronize()
    return result, max(0, before - torch.cuda.mem_get_info()[0]) // _MIB
