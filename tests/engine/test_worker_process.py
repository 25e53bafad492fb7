from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest

from sls_deploy.engine.process import MemoryLimitError, run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.errors import SlsError

Maker = Callable[..., onnx.ModelProto]

# A shell may have told the tests, and so their children, to ignore Ctrl-C.
PARENT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sls_deploy.engine.process import MemoryLimitError, run_worker
from sls_deploy.engine.request import BuildRequest
run_worker(BuildRequest(**json.load(sys.stdin)), 60)
"""


def worker_of(parent: int, seconds: float = 30) -> int:
    """Process id of the worker that `parent` starts, as soon as it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == parent and b"sls_deploy.engine.worker" in command:
                return int(entry.name)
        time.sleep(0.002)
    raise AssertionError("no worker was started")


def busy_worker_of(parent: int, seconds: float = 60) -> int:
    """The worker that `parent` starts, once it has loaded the vendor's library."""
    worker = worker_of(parent)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if b"libtensorrt_rtx" in Path(f"/proc/{worker}/maps").read_bytes():
            return worker
        time.sleep(0.01)
    raise AssertionError("the worker never loaded the vendor's library")


@pytest.fixture
def request_hanging(request_small: BuildRequest) -> BuildRequest:
    """A request whose worker hangs when it writes the plan: nobody reads from that pipe."""
    os.mkfifo(request_small.plan)
    return request_small


def state_of(process: int) -> str:
    """State letter of a process in /proc, 'X' when it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def wait_until_gone(process: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if state_of(process) in "XZ":
            return True
        time.sleep(0.01)
    return False


def signal_worker(number: signal.Signals) -> threading.Thread:
    """Send a signal to the worker that this process is about to start."""
    thread = threading.Thread(target=lambda: os.kill(busy_worker_of(os.getpid()), number))
    thread.start()
    return thread


def test_a_build_writes_the_plan_and_says_what_it_used(request_small: BuildRequest) -> None:
    answer = run_worker(request_small, 60)
    assert Path(request_small.plan).stat().st_size > 10_000
    assert answer.outputs[0].shape == (-1, 12, -1, -1)


def test_a_build_prints_nothing(
    request_small: BuildRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    run_worker(request_small, 60)
    assert capfd.readouterr() == ("", "")


def test_relative_paths_and_unusual_names_work(
    request_small: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(request_small.onnx).rename(tmp_path / "mödel 1.onnx")
    monkeypatch.chdir(tmp_path)
    run_worker(replace(request_small, onnx="mödel 1.onnx", plan="einé.plan"), 60)
    assert (tmp_path / "einé.plan").is_file()


def test_a_build_that_takes_too_long_is_stopped(request_small: BuildRequest) -> None:
    with pytest.raises(SlsError, match=r"took more than 0\.01 s and was stopped.*build\.timeout"):
        run_worker(request_small, 0.01)


def test_a_worker_that_hangs_is_killed(request_hanging: BuildRequest) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(worker_of(os.getpid())))
    thread.start()
    with pytest.raises(SlsError, match="took more than 2 s"):
        run_worker(request_hanging, 2)
    thread.join()
    assert state_of(found[0]) == "X"


def test_a_worker_that_the_system_kills_is_told_from_a_crash(request_hanging: BuildRequest) -> None:
    thread = signal_worker(signal.SIGKILL)
    with pytest.raises(SlsError, match=r"memory ran out: the worker was killed"):
        run_worker(request_hanging, 60)
    thread.join()


def test_a_worker_that_crashes_names_its_signal(request_hanging: BuildRequest) -> None:
    thread = signal_worker(signal.SIGSEGV)
    with pytest.raises(SlsError, match=r"the worker crashed \(Segmentation fault\)"):
        run_worker(request_hanging, 60)
    thread.join()


def test_memory_that_runs_out_is_one_clear_error(request_small: BuildRequest) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({550 << 20},) * 2)"
    done = subprocess.run(
        [sys.executable, "-c", limited + PARENT],
        input=json.dumps(asdict(request_small)),
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sls_deploy.errors.SlsError")
    assert "sm86 engine with tensorrt_rtx" in last
    assert "probably because memory ran out" in last


def test_a_refused_graph_names_the_node(request_small: BuildRequest, make_network: Maker) -> None:
    model = make_network(request_small.onnx)
    model.graph.node[2].op_type = "Frobnicate"
    onnx.save(model, request_small.onnx)
    with pytest.raises(SlsError, match=r"node 'relu0' \(Frobnicate\): .*Plugin not found"):
        run_worker(request_small, 60)


def test_the_first_error_is_told_not_what_follows_it(
    request_small: BuildRequest, make_network: Maker
) -> None:
    model = make_network(request_small.onnx)
    model.graph.node[1].input[0] = "input"
    onnx.save(model, request_small.onnx)
    with pytest.raises(SlsError, match=r"node 'conv0' \(Conv\): .*must be of same type") as caught:
        run_worker(request_small, 60)
    assert "cuda" not in str(caught.value).lower()


def test_an_error_of_the_build_itself_is_told(request_small: BuildRequest) -> None:
    size = (1, 4, 32, 32)
    wrong = replace(request_small, min_shape=size, opt_shape=size, max_shape=size)
    with pytest.raises(SlsError, match="Dimension mismatch for tensor input and profile 0"):
        run_worker(wrong, 60)


def test_a_full_disk_is_told(request_small: BuildRequest) -> None:
    with pytest.raises(SlsError, match=r"cannot be written \(No space left on device\)"):
        run_worker(replace(request_small, plan="/dev/full"), 60)


def started_parent(request: BuildRequest) -> subprocess.Popen[bytes]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(Path(request.plan).parent)},
    )
    assert parent.stdin is not None
    parent.stdin.write(json.dumps(asdict(request)).encode())
    parent.stdin.close()
    parent.stdin = None
    return parent


def test_ctrl_c_ends_the_worker_and_leaves_nothing(
    request_hanging: BuildRequest, tmp_path: Path
) -> None:
    parent = started_parent(request_hanging)
    worker = busy_worker_of(parent.pid)
    parent.send_signal(signal.SIGINT)
    _, printed = parent.communicate(timeout=30)
    assert b"KeyboardInterrupt" in printed
    assert wait_until_gone(worker)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.plan", "model.onnx"]


def test_the_workers_memory_is_its_own_not_its_parents() -> None:
    code = (
        "import subprocess, sys; ballast = b'x' * (400 << 20);"
        "print(subprocess.check_output([sys.executable, '-c',"
        " 'from sls_deploy.process_memory import peak_mib; print(peak_mib())'], text=True))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert 5 < int(printed) < 200


def test_a_worker_does_not_outlive_a_parent_that_was_killed(
    request_hanging: BuildRequest,
) -> None:
    parent = started_parent(request_hanging)
    worker = busy_worker_of(parent.pid)
    parent.kill()
    parent.communicate(timeout=30)
    assert wait_until_gone(worker)


def test_a_worker_above_its_memory_is_stopped(request_small: BuildRequest) -> None:
    with pytest.raises(MemoryLimitError, match=r"took more than 40 MiB and was stopped"):
        run_worker(request_small, 60, 40)
    assert not Path(request_small.plan).exists()


def test_a_worker_within_its_memory_is_left_alone(request_small: BuildRequest) -> None:
    answer = run_worker(request_small, 60, 2000)
    assert 50 < answer.peak_mib < 2000


def test_a_worker_that_is_called_off_is_killed(request_hanging: BuildRequest) -> None:
    stop = threading.Event()
    found: list[int] = []

    def call_off() -> None:
        found.append(busy_worker_of(os.getpid()))
        stop.set()

    thread = threading.Thread(target=call_off)
    thread.start()
    with pytest.raises(SlsError, match="was stopped"):
        run_worker(request_hanging, 120, stop=stop)
    thread.join()
    assert wait_until_gone(found[0])
