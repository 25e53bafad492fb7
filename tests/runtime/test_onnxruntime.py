from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from sls_deploy.errors import OutOfMemory, SlsError
from sls_deploy.runtime.onnxruntime import OnnxRunner, open_session, run_session

PICTURES = np.random.default_rng(0).random((2, 3, 5, 7), dtype=np.float32)
DOUBLED = """
<ir_version: 10, opset_import: ["": 18]>
doubled (float[batch, 3, height, width] input) => (float[batch, 3, height, width] output)
{
    inner = Cast <to = 10> (input)
    sum = Add (inner, inner)
    output = Cast <to = 1> (sum)
}
"""


def write(path: Path, text: str) -> Path:
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    return write(tmp_path / "doubled.onnx", DOUBLED)


def test_runs_a_graph_with_fp16_inside(doubled: Path) -> None:
    output = OnnxRunner(doubled, threads=1).run(PICTURES)
    assert output.dtype == np.float32
    assert np.allclose(output, 2 * PICTURES, atol=1e-3)


def test_is_called_like_its_file(doubled: Path) -> None:
    assert OnnxRunner(doubled).name == "doubled.onnx"


def test_takes_the_bytes_of_a_file(doubled: Path) -> None:
    output = OnnxRunner(doubled.read_bytes()).run(PICTURES)
    assert np.array_equal(output, OnnxRunner(doubled).run(PICTURES))


def test_runs_on_the_cpu_and_prints_nothing(
    doubled: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert open_session(doubled).get_providers() == ["CPUExecutionProvider"]
    assert capfd.readouterr() == ("", "")


def test_refuses_pictures_of_another_form(doubled: Path) -> None:
    with pytest.raises(SlsError, match="uint8"):
        OnnxRunner(doubled).run(np.zeros((1, 3, 4, 4), np.uint8))


def test_names_the_size_that_a_graph_cannot_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pooled = DOUBLED.replace("Add (inner, inner)", "MaxPool <kernel_shape = [9, 9]> (inner)")
    with pytest.raises(SlsError, match=r"\[2, 3, 5, 7\]"):
        OnnxRunner(write(tmp_path / "pooled.onnx", pooled)).run(PICTURES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_refuses_a_file_that_is_no_graph(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(SlsError, match=r"broken\.onnx: cannot be loaded"):
        OnnxRunner(path)
    assert capfd.readouterr() == ("", "")


def test_refuses_a_graph_with_other_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "other.onnx", DOUBLED.replace("input", "pixels"))
    with pytest.raises(SlsError, match="has no picture 'input'"):
        OnnxRunner(path)


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no such file"):
        OnnxRunner(tmp_path / "none.onnx")


def test_says_how_to_install_onnx_runtime(doubled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SlsError, match=r"pip install 'sls-deploy\[cpu\]'"):
        OnnxRunner(doubled)


def test_refuses_to_run_once_closed(doubled: Path) -> None:
    runner = OnnxRunner(doubled)
    runner.close()
    with pytest.raises(SlsError, match="was closed"):
        runner.run(PICTURES)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 40, 30)])
def test_a_stopwatch_gives_milliseconds(doubled: Path, shape: tuple[int, ...]) -> None:
    pictures = np.zeros(shape, np.float32)
    stopwatch = OnnxRunner(doubled, threads=1).stopwatch(pictures)
    assert 0 < stopwatch() < 1000


def test_a_stopwatch_times_the_whole_batch_of_a_graph_for_single_pictures(tmp_path: Path) -> None:
    slow = DOUBLED.replace("batch", "1").replace("Add (inner, inner)", "Sin (inner)")
    slow = slow.replace("to = 10", "to = 1")
    runner = OnnxRunner(write(tmp_path / "slow.onnx", slow), threads=1)
    one = runner.stopwatch(np.ones((1, 3, 200, 200), np.float32))
    many = runner.stopwatch(np.ones((16, 3, 200, 200), np.float32))
    assert min(many() for _ in range(9)) > 4 * min(one() for _ in range(9))


def test_a_stopwatch_stops_with_its_runner(doubled: Path) -> None:
    runner = OnnxRunner(doubled)
    stopwatch = runner.stopwatch(PICTURES)
    runner.close()
    with pytest.raises(SlsError, match="was closed"):
        stopwatch()


def has_cuda() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(has_cuda(), reason="this ONNX Runtime has a CUDA provider")
def test_a_runtime_without_a_cuda_provider_is_named(doubled: Path) -> None:
    with pytest.raises(SlsError, match=r"has no CUDA provider.*sls-deploy\[gpu\]"):
        OnnxRunner(doubled, provider="cuda")


def test_a_cuda_provider_that_does_not_load_is_no_cpu_run(
    doubled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    # As a build for GPUs does where the libraries of CUDA are missing.
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, _: real(source, options, ["CPUExecutionProvider"]),
    )
    with pytest.raises(SlsError, match="CUDA provider cannot be loaded here"):
        OnnxRunner(doubled, provider="cuda")


def test_on_a_gpu_fp32_is_not_rounded_to_ten_bits(
    doubled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = onnxruntime.InferenceSession

    def made(source: str, options: object, providers: list[object]) -> object:
        asked.append(providers)
        session = real(source, options, ["CPUExecutionProvider"])
        monkeypatch.setattr(session, "get_providers", lambda: ["CUDAExecutionProvider"])
        return session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", made)
    OnnxRunner(doubled, provider="cuda")
    assert asked == [[("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]]


STARVED = """
import resource, sys
from pathlib import Path

import numpy as np

from sls_deploy.errors import OutOfMemory
from sls_deploy.runtime.onnxruntime import OnnxRunner

runner = OnnxRunner(Path(sys.argv[1]), threads=1)
large = np.zeros((1, 3, 2000, 2000), np.float32)
status = Path("/proc/self/status").read_text()
taken = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (taken * 1024 + 32 * 2**20,) * 2)
try:
    runner.run(large)
except OutOfMemory as error:
    print(error)
print(runner.run(np.ones((1, 3, 8, 8), np.float32)).max())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit as Linux knows it")
def test_too_little_memory_is_told_apart_and_a_smaller_picture_still_runs(tmp_path: Path) -> None:
    tripled = DOUBLED.replace("to = 10", "to = 11")  # so that memory is taken on the way
    path = write(tmp_path / "tripled.onnx", tripled)
    command = [sys.executable, "-c", STARVED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, rest = done.stdout.splitlines()
    assert said == (
        "tripled.onnx: ran out of memory on pictures of shape [1, 3, 2000, 2000]. Run smaller"
        " batches or tiles."
    )
    assert float(rest) == 2


@pytest.mark.parametrize(
    "said",
    [
        "std::bad_alloc",
        "bad allocation",
        "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of"
        " size 50331648",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=box",
        "CUDA error cudaErrorMemoryAllocation: CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_every_way_to_say_that_memory_ran_out_is_known(
    doubled: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {said}")

    with pytest.raises(OutOfMemory, match=r"ran out of memory on pictures of shape \[2, 3, 5, 7\]"):
        run_session(SimpleNamespace(run=fails), ["output"], {"input": PICTURES}, "graph")
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(OutOfMemory, match="memory ran out while it was loaded"):
        open_session(doubled)


def test_other_failures_are_not_taken_for_it(doubled: Path) -> None:
    with pytest.raises(SlsError) as caught:
        run_session(open_session(doubled), ["none"], {"input": PICTURES}, "graph")
    assert not isinstance(caught.value, OutOfMemory)
