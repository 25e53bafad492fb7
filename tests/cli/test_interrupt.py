from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Program = Callable[..., Any]

# A shell may have told the tests, and so their children, to ignore Ctrl-C. The search waits at
# step 40 of 100 until the signal comes, so that no machine is too fast or too slow for it.
PROGRAM = """
import contextlib, pathlib, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from sls_deploy.cli import main, output
progress = output.progress

@contextlib.contextmanager
def waiting(*, quiet=False):
    with progress(quiet=quiet) as show:
        def report(reported):
            show(reported)
            if reported.done == 40 and reported.task.startswith("recover"):
                pathlib.Path("at step 40").touch()
                time.sleep(120)
        yield report

output.progress = waiting
main.main()
"""


def test_interrupted_search_says_so_and_goes_on(
    program: Program, dense: Path, photos: Path, tmp_path: Path
) -> None:
    flags = ["--steps", "100", "--batch", "1", "--patch", "8", "--crops", "8"]
    arguments = ["search", "--weights", str(dense), "--data", str(photos), *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "at step 40").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("error: interrupted; the same command goes on")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob(".*.safetensors.*"))
    folder = tmp_path / "runs/small/search/checkpoint/b0.50"
    kept = max(int(path.stem) for path in folder.glob("*.safetensors"))
    assert 0 < kept < 40

    again = program(*arguments, cwd=tmp_path)
    first = re.match(r"recover b0\.50 (\d+)/100", again.err)
    assert again.code == 0
    assert first is not None
    assert int(first[1]) == kept + 1
