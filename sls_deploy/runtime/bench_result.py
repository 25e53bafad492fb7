"""What `sls-deploy bench` measured, as it is kept in a file."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sls_deploy.engine.device import Device
from sls_deploy.errors import SlsError, problem
from sls_deploy.files import slug, write_json
from sls_deploy.runtime.benchmark import Timing
from sls_deploy.runtime.runner import LayerTime

BackendName = Literal["torch", "onnxruntime", "tensorrt", "tensorrt_rtx"]
_NAME_IN_CPUINFO = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one form of a network."""

    name: str
    """The form, such as 'dense PyTorch' or 'ONNX fp16'."""
    backend: BackendName
    """What ran it."""
    device: Literal["cpu", "cuda"]
    """Where it ran."""
    timing: Timing
    """Times of a run, ms: by CUDA events on a GPU, except for ONNX Runtime."""
    pictures_per_second: float
    """Pictures restored in a second, by the median."""
    megapixels_per_second: float
    """Megapixels of output in a second, by the median."""
    ratio: float | None
    """Median time over that of dense PyTorch on the same device; None without such a row."""
    memory_mib: int | None
    """Memory that loading and the first run took: most resident memory of the process on the CPU,
    memory of the GPU there; None where the system does not tell."""
    note: str
    """What is to be known of the row; mostly empty."""
    layers: tuple[LayerTime, ...] | None
    """Times of its layers; None where the backend has none, or they were not asked for."""


@dataclass(frozen=True)
class Bench:
    """Forms of one network, timed in turn on one machine."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    version: Literal[1]
    """Version of this form."""
    target: str
    """Run folder or file."""
    budget: float | None
    """Budget of the run that was timed; None for a file."""
    shape: tuple[int, ...]
    """Input, NCHW."""
    output_shape: tuple[int, ...]
    """Output, NCHW."""
    processor: str
    """Name of the CPU."""
    threads: int
    """Threads on the CPU."""
    gpu: Device | None
    """The GPU before the first run; None where everything ran on the CPU."""
    gpu_after: Device | None
    """The same after the last run: its clocks tell whether they moved."""
    versions: dict[str, str]
    """Versions of the packages that matter."""
    when: str
    """Time of the end, ISO 8601 in UTC."""
    warm_up: int
    """Runs of each form before those that count."""
    repeats: int
    """Runs of each form that count."""
    rows: tuple[BenchRow, ...]
    """What ran, in the order of the flow."""
    not_run: dict[str, str]
    """What could not run here, each with its reason."""


def write_bench(path: Path, bench: Bench) -> Path:
    """Write figures atomically and return the path."""
    return write_json(path, asdict(bench))


def read_bench(path: Path) -> Bench:
    """Read figures.

    Raises:
        SlsError: no such file, or one of another form.
    """
    fix = "`sls-deploy bench` measures anew."
    try:
        return TypeAdapter(Bench).validate_json(path.read_bytes())
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path), fix) from None
    except ValidationError as error:
        what = f"holds no figures of `sls-deploy bench` ({problem(error)})"
        raise SlsError(what, str(path), fix) from None


def bench_file_name(bench: Bench) -> str:
    """File name of figures: device and shape, such as 'nvidia-a10-1x3x180x320.json'."""
    device = bench.gpu.name if bench.gpu else f"{bench.processor} {bench.threads} threads"
    return f"{slug(device)}-{'x'.join(map(str, bench.shape))}.json"


def processor() -> str:
    """Name of the CPU, as its maker calls it where the system tells."""
    try:
        found = _NAME_IN_CPUINFO.search(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
