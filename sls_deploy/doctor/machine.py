"""The machine itself: Python, system, cores, memory, disks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from sls_deploy.doctor.diagnosis import Finding

_PYTHON = (3, 11)
_LEAST_MEMORY_MIB = 4096
"""Reconstructing a small network takes 2 GiB, and the system wants some too."""
_LEAST_DISK_MIB = 2048
"""A run with all precisions and engines of a small network takes a few hundred MiB."""
_MIB = 2**20


def examine_machine(folder: Path, cache: Path) -> list[Finding]:
    """Look at what no package can mend.

    Args:
        folder: where runs are kept.
        cache: where engines are kept between runs.
    """
    return [
        check_python(sys.version_info[:3]),
        check_system(platform.system(), platform.machine(), platform.platform()),
        Finding("cores", "ok", f"{len(os.sched_getaffinity(0))}"),
        check_memory(memory_mib()),
        check_disk("working folder", folder),
        check_disk("cache", cache),
    ]


def check_python(version: tuple[int, int, int]) -> Finding:
    """Whether this Python is new enough."""
    says = ".".join(map(str, version))
    if version[:2] >= _PYTHON:
        return Finding("Python", "ok", says)
    fix = f"Install Python {_PYTHON[0]}.{_PYTHON[1]} or later."
    return Finding("Python", "broken", says, fix)


def check_system(system: str, processor: str, full: str) -> Finding:
    """Whether engines can be built and run under this system."""
    if system == "Linux" and processor in ("x86_64", "aarch64"):
        return Finding("system", "ok", full)
    fix = "Build and run engines under Linux; worker processes and TensorRT need it."
    return Finding("system", "warning", full, fix)


def check_memory(total_mib: int) -> Finding:
    """Whether memory suffices for a small network."""
    says = f"{total_mib} MiB"
    if total_mib >= _LEAST_MEMORY_MIB:
        return Finding("memory", "ok", says)
    fix = "Give a smaller --memory, --crops and --patch."
    return Finding("memory", "warning", says, fix)


def memory_mib() -> int:
    """Memory of this machine, or of the container if that has less, in MiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        limit = "max"
    return min(total, int(limit)) // _MIB if limit.isdecimal() else total // _MIB


def check_disk(name: str, folder: Path) -> Finding:
    """Whether a folder, or the first above it that exists, can be written and has room."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0")
        free = shutil.disk_usage(place).free // _MIB
    except OSError as error:
        says = f"{folder}: cannot be written ({error.strerror or error})"
        return Finding(name, "broken", says, _FIXES[name])
    says = f"{folder}: can be written, {free} MiB free"
    if free >= _LEAST_DISK_MIB:
        return Finding(name, "ok", says)
    return Finding(name, "warning", says, f"Free some space. {_FIXES[name]}")


_FIXES = {
    "working folder": "Work in another folder, or name a run elsewhere with --out.",
    "cache": "Name another folder in SLS_DEPLOY_CACHE.",
}
