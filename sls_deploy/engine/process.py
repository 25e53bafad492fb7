"""Runs one build in a process of its own, so that nothing a vendor's library does can hurt ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter

from sls_deploy.engine.request import BuildAnswer, BuildRequest
from sls_deploy.engine.vendor_log import first_cause
from sls_deploy.errors import SlsError

_WORKER = [sys.executable, "-m", "sls_deploy.engine.worker"]
_MOST = 100_000
"""Bytes of a worker's output that are read to find out why it died."""


def run_worker(request: BuildRequest, timeout: float) -> BuildAnswer:
    """Build an engine in a worker process.

    Args:
        request: what to build; `request.plan` is written, `request.answer` is ignored.
        timeout: seconds after which the worker is killed.

    Raises:
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
            try:
                worker.communicate(json.dumps(asdict(request)).encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                fix = "Raise the timeout (build.timeout), or build for a smaller largest input."
                slow = f"building the {what} took more than {timeout:g} s and was stopped"
                raise SlsError(slow, where, fix) from None
        if worker.returncode != 0 or not answer.exists():
            printed = output.read_bytes()[:_MOST].decode("utf-8", "replace")
            raise _failure(f"building the {what} failed", _death(worker.returncode, printed), where)
        result = TypeAdapter(BuildAnswer).validate_json(answer.read_bytes())
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
