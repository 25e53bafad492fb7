"""Runs one build in a process of its own, so that nothing a vendor's library does can hurt ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event

from pydantic import TypeAdapter

from sls_deploy.engine.request import BuildAnswer, BuildRequest
from sls_deploy.engine.vendor_log import first_cause
from sls_deploy.errors import SlsError
from sls_deploy.process_memory import peak_mib

_WORKER = [sys.executable, "-m", "sls_deploy.engine.worker"]
_LOOK_AGAIN = 0.05
"""Seconds between two looks at a worker."""
_MOST = 100_000
"""Bytes of a worker's output that are read to find out why it died."""


class MemoryLimitError(SlsError):
    """A build took more memory than it was given."""


def run_worker(
    request: BuildRequest,
    timeout: float,
    memory_mib: int | None = None,
    stop: Event | None = None,
) -> BuildAnswer:
    """Build an engine in a worker process.

    Args:
        request: what to build; `request.plan` is written.
        timeout: seconds after which the worker is killed.
        memory_mib: resident memory in MiB above which the worker is killed; None for no limit.
            It is looked at twenty times a second, and on Linux only.
        stop: when it is set, the worker is killed.

    Raises:
        MemoryLimitError: the worker took more memory.
        SlsError: the vendor refused the graph (its first error), or the worker crashed, was
            killed, ran out of memory or out of time.
    """
    where = request.onnx
    what = f"{'+'.join(request.architectures)} engine with {request.backend}"
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        answer = Path(folder, "answer.json")
        request = replace(
            request,
            answer=str(answer),
            onnx=str(Path(request.onnx).resolve()),
            plan=str(Path(request.plan).resolve()),
        )
        output = Path(folder, "output.txt")
        with output.open("wb") as log, _started(log.fileno(), folder) as worker:
            _tell(worker, request)
            end = time.monotonic() + timeout
            while not _ended(worker, min(_LOOK_AGAIN, end - time.monotonic())):
                if time.monotonic() >= end:
                    fix = "Raise the timeout (build.timeout), or build for a smaller largest input."
                    slow = f"building the {what} took more than {timeout:g} s and was stopped"
                    raise SlsError(slow, where, fix)
                if stop is not None and stop.is_set():
                    raise SlsError(f"building the {what} was stopped", where)
                if memory_mib is not None and peak_mib(worker.pid) > memory_mib:
                    fix = "Raise build.memory, or build for a smaller largest input."
                    large = f"building the {what} took more than {memory_mib} MiB and was stopped"
                    raise MemoryLimitError(large, where, fix)
        if worker.returncode != 0 or not answer.exists():
            printed = output.read_bytes()[:_MOST].decode("utf-8", "replace")
            raise _failure(f"building the {what} failed", _death(worker.returncode, printed), where)
        result = TypeAdapter(BuildAnswer).validate_json(answer.read_bytes())
    if result.unwritten:
        fix = "Free some space; finished engines are kept."
        raise SlsError(f"cannot be written ({result.unwritten})", request.plan, fix)
    if result.error:
        raise _failure(f"the {what} was refused", result.error, where)
    return result


@contextmanager
def _started(output: int, folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a session of its own; whatever happens, none of its processes stays."""
    worker = subprocess.Popen(
        _WORKER,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        cwd=folder,  # `-m` puts the working folder first on the module path
        start_new_session=True,
    )
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):  # the whole group may have ended already
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        if worker.stdin:
            worker.stdin.close()


def _tell(worker: subprocess.Popen[bytes], request: BuildRequest) -> None:
    """Hand the request over; a worker that died before it read it shows by its exit code."""
    assert worker.stdin is not None  # noqa: S101 - it was asked for
    with suppress(BrokenPipeError):
        worker.stdin.write(json.dumps(asdict(request)).encode())
        worker.stdin.close()


def _ended(worker: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        worker.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _failure(what: str, reason: str, where: str) -> SlsError:
    if not re.search(r"bad_alloc|out of memory|OutOfMemory|memory ran out|was killed", reason):
        return SlsError(f"{what}: {reason}", where)
    fix = "Free some memory, or build for a smaller largest input (build.max_shape)."
    return SlsError(f"{what}, probably because memory ran out: {reason}", where, fix)


def _death(code: int, printed: str) -> str:
    """Why a worker ended, from its exit code and what it printed."""
    lines = printed.strip().splitlines()
    if code == -signal.SIGKILL:
        return "the worker was killed"
    if code < 0:
        cause = first_cause(printed)
        return f"the worker crashed ({signal.strsignal(-code)})" + (f", {cause}" if cause else "")
    return f"the worker ended with code {code}" + (f" ({lines[-1].strip()})" if lines else "")
