"""The process that builds one engine: `python -m sls_deploy.engine.worker`, request on stdin."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.builder import build_engine
from sls_deploy.engine.request import BuildAnswer, BuildOptions, BuildRequest
from sls_deploy.process_memory import peak_mib

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Build what stdin asks for and write the answer to the file that it names."""
    # The worker must not outlive a parent that was killed and could not clean up.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    request = _read_request(json.load(sys.stdin))
    try:
        answer = build_engine(BACKENDS[request.backend], request)
    except MemoryError:
        answer = BuildAnswer(error="memory ran out")
    except OSError as error:
        answer = BuildAnswer(unwritten=error.strerror or str(error))
    answer = replace(answer, peak_mib=peak_mib())
    Path(request.answer).write_text(json.dumps(asdict(answer)), "utf-8")


def _read_request(values: dict[str, Any]) -> BuildRequest:
    options = BuildOptions(**values.pop("options"))
    return BuildRequest(**values, options=options)


if __name__ == "__main__":
    main()
