"""Runs a probe and brings home what it found, or how it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

Facts = TypeVar("Facts")

_PROBE = [sys.executable, "-P", "-m", "sls_deploy.doctor.probes"]
"""-P: what lies in the working folder is no module of ours."""
_SECONDS = 90


@dataclass(frozen=True)
class Answer(Generic[Facts]):
    """What a probe found; one of the two is there."""

    facts: Facts | None
    """What it found; None if it failed."""
    trouble: str
    """Why it failed, on one line; '' if it did not."""
    printed: str = ""
    """What it wrote to standard error."""


def ask(kind: type[Facts], probe: str, *given: str, timeout: float = _SECONDS) -> Answer[Facts]:
    """Run a probe in a process of its own.

    Args:
        kind: the class of what it finds.
        probe: name of a function in `sls_deploy.doctor.probes`.
        given: its arguments.
        timeout: seconds after which it is killed.
    """
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        path = Path(folder, "answer.json")
        try:
            ended = subprocess.run(
                [*_PROBE, str(path), probe, *given],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(None, f"hangs (stopped after {timeout:g} s)")
        printed = ended.stderr.decode("utf-8", "replace")
        # It may crash while it ends; what it has written by then still stands.
        if not path.exists():
            return Answer(None, _death(ended.returncode, printed), printed)
        written = json.loads(path.read_bytes())
    trouble = str(written.get("trouble", ""))
    found = None if trouble else TypeAdapter(kind).validate_python(written["facts"])
    return Answer(found, trouble, printed)


def _death(code: int, printed: str) -> str:
    lines = printed.strip().splitlines()
    last = f" ({lines[-1].strip()[:200]})" if lines else ""
    if code < 0:
        return f"crashes ({signal.strsignal(-code)})"
    return f"ends its process with code {code}{last}"
