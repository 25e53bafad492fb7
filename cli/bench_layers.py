"""`sls-deploy bench --layers`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.calibration.latency import LatencyTable, Machine
    from sls_deploy.calibration.layer_timing import LayerTimer
    from sls_deploy.config import Config
    from sls_deploy.run import Run


def bench_layers(
    target: Path | None,
    backend: str,
    shape: str | None,
    precision: str | None,
    out: Path | None,
    *,
    json: bool,
) -> None:
    """Time each distinct layer of a run's network and write the latency table.

    Args:
        target: run folder; the newest run if None.
        backend: 'onnxruntime', 'tensorrt', 'tensorrt_rtx', or 'auto': the GPU if there is one, else
            the processor.
        shape: size of the picture, such as '1x3x180x320'; the run's build.opt_shape if None.
        precision: 'fp16' or 'fp32'; fp16 on a GPU and fp32 on a processor if None.
        out: file to write; in the run folder if None. Rows that it holds are kept.
        json: print the table as JSON.

    Raises:
        SlsError: a flag that cannot be used, a network that cannot be loaded, or a layer that
            cannot be timed.
    """
    from sls_deploy.calibration.layer_timing import measure_table
    from sls_deploy.cli.output import print_json, print_line, progress
    from sls_deploy.search.measured_shapes import shapes_of_network

    run = o.find_run(target)
    picture = _picture(shape, run.config)
    timer = _timer(backend, precision)
    wanted = shapes_of_network(run.config, picture)
    path = out or table_path(run.path, timer.machine, wanted.picture)
    with run.locked(), progress(quiet=json) as report:
        table = measure_table(wanted.shapes, wanted.picture, timer, path, report)
    if json:
        print_json({"path": path, "table": table})
    else:
        if wanted.picture != picture:
            given, taken = ("x".join(map(str, sides)) for sides in (picture, wanted.picture))
            print_line(f"the network takes no pictures of {given}: they are padded to {taken}")
        print_layers(table, wanted.layers, path, run)


def table_path(run: Path, machine: Machine, picture: tuple[int, int]) -> Path:
    """Where a run keeps the table of a device, a precision and a size of picture."""
    from sls_deploy.files import slug

    device = slug(machine.device) or "device"
    size = "x".join(map(str, picture))
    return run / "latency" / f"{device}-{machine.precision}-{size}.json"


def print_layers(table: LatencyTable, layers: int, path: Path, run: Run) -> None:
    """Print a table of layer times, what casts doubt on it, and how a search uses it."""
    from sls_deploy.calibration.latency import shape_of
    from sls_deploy.cli.output import print_line, print_table

    rows = [
        [
            str(shape_of(row)),
            f"{row.dense_us:.1f}",
            f"{row.sparse_us:.1f}",
            f"{row.dense_us / row.sparse_us:.2f}",
            f"{row.spread:.1%}",
            f"{row.runs}",
        ]
        for row in table.rows
    ]
    title = f"{len(rows)} distinct layers, dense and narrowed, of the network's {layers}"
    print_table(title, ["layer", "dense us", "2:4 us", "gain", "spread", "runs"], rows)
    print_line(f"timed on {table.machine}, pictures of {table.height}x{table.width}")
    if table.drift is not None:
        print_line(f"the first layer, timed again at the end: {table.drift:+.1%}")
    for warning in table.warnings:
        print_line(f"warning: {warning}")
    print_line(f"wrote {path}; to measure anew, delete it")
    print_line(f"search with it: {shlex.join(search_command(run, path))}")


def search_command(run: Run, table: Path) -> list[str]:
    """A search with the settings of a run, by the times of a table, into a new run."""
    from sls_deploy.config import SearchConfig
    from sls_deploy.run import CONFIG

    gpu = SearchConfig.model_fields["gpu"].default
    estimate = [] if run.config.search.gpu == gpu else ["--gpu", gpu]  # of another cost
    return [
        *("sls-deploy", "search", "--config", str(run.path / CONFIG), "--cost", "latency"),
        *("--table", str(table), *estimate, "--out", "runs/NEW"),
    ]


def _picture(shape: str | None, config: Config) -> tuple[int, int]:
    """Height and width of the picture that layers are timed at."""
    from sls_deploy.errors import SlsError
    from sls_deploy.models.restoration import COLOURS

    sizes = o.shape_of(shape, "--shape") or list(config.build.opt_shape)
    batch, channels, height, width = sizes
    wanted = COLOURS * config.model.frames
    fix = f"Give 1x{wanted}x{height}x{width}."
    if shape is not None and batch != 1:
        raise SlsError("layers are timed for one picture", "--shape", fix)
    if shape is not None and channels != wanted:
        raise SlsError(f"the network takes {wanted} channels, not {channels}", "--shape", fix)
    return height, width


def _timer(backend: str, precision: str | None) -> LayerTimer:
    """What times the layers."""
    from sls_deploy.calibration.cpu_layers import CpuLayers
    from sls_deploy.calibration.gpu_layers import GpuLayers
    from sls_deploy.calibration.layer_graph import PRECISIONS
    from sls_deploy.engine.backends import BACKENDS
    from sls_deploy.engine.device import present_device
    from sls_deploy.errors import SlsError

    timers = ("onnxruntime", *BACKENDS)
    if backend not in ("auto", *timers):
        fix = f"Choose {', '.join(timers)}, or auto."
        raise SlsError(f"'{backend}' times no layers alone", "--backend", fix)
    if precision not in (None, *PRECISIONS):
        fix = f"Choose one of {', '.join(PRECISIONS)}."
        raise SlsError(f"layers are not timed alone in {precision}", "--precision", fix)
    if backend == "onnxruntime" or (backend == "auto" and present_device() is None):
        if precision == "fp16":
            what = "ONNX Runtime's convolutions compute in fp32 on a processor"
            raise SlsError(what, "--precision", "Leave it out.")
        return CpuLayers()
    return GpuLayers(backend, "fp32" if precision == "fp32" else "fp16")
