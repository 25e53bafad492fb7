"""`sls-deploy bench --layers`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.calibration.latency import LatencyTable, Machine
    from sls_deploy.calibration.layer_timing import LayerTimer
    from sls_deploy.config import Config

_BACKENDS = ("onnxruntime", "tensorrt", "tensorrt_rtx")
_PRECISIONS = ("fp32", "fp16")


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
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.search.measured_shapes import shapes_of_network

    run = o.find_run(target)
    picture = _picture(shape, run.config)
    timer = _timer(backend, precision)
    wanted = shapes_of_network(run.config, picture)
    path = out or table_path(run.path, timer.machine, wanted.picture)
    with progress(quiet=json) as report:
        table = measure_table(wanted.shapes, wanted.picture, timer, path, report)
    if json:
        print_json({"path": path, "table": table})
    else:
        print_layers(table, wanted.layers, path, run.config)


def table_path(run: Path, machine: Machine, picture: tuple[int, int]) -> Path:
    """Where a run keeps the table of a device, a precision and a size of picture."""
    device = re.sub(r"[^a-z0-9]+", "-", machine.device.lower()).strip("-") or "device"
    size = "x".join(map(str, picture))
    return run / "latency" / f"{device}-{machine.precision}-{size}.json"


def print_layers(table: LatencyTable, layers: int, path: Path, config: Config) -> None:
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
    print_line(
        f"search with it: sls-deploy search --weights {config.model.weights} --data "
        f"{config.data.photos} --cost latency --table {path} --out runs/NEW"
    )


def _picture(shape: str | None, config: Config) -> tuple[int, int]:
    """Height and width of the picture that layers are timed at."""
    from sls_deploy.errors import SlsError

    sizes = o.shape_of(shape, "--shape") or list(config.build.opt_shape)
    batch, _, height, width = sizes
    if shape is not None and batch != 1:
        fix = f"Write 1 for the batch, such as 1x3x{height}x{width}."
        raise SlsError("layers are timed for one picture", "--shape", fix)
    return height, width


def _timer(backend: str, precision: str | None) -> LayerTimer:
    """What times the layers."""
    from sls_deploy.calibration.cpu_layers import CpuLayers
    from sls_deploy.calibration.gpu_layers import GpuLayers
    from sls_deploy.engine.device import present_device
    from sls_deploy.errors import SlsError

    if backend not in ("auto", *_BACKENDS):
        fix = f"Choose {', '.join(_BACKENDS)}, or auto."
        raise SlsError(f"'{backend}' times no layers alone", "--backend", fix)
    if precision not in (None, *_PRECISIONS):
        fix = f"Choose one of {', '.join(_PRECISIONS)}."
        raise SlsError(f"layers are not timed alone in {precision}", "--precision", fix)
    if backend == "onnxruntime" or (backend == "auto" and present_device() is None):
        if precision == "fp16":
            what = "ONNX Runtime's convolutions compute in fp32 on a processor"
            raise SlsError(what, "--precision", "Leave it out.")
        return CpuLayers()
    return GpuLayers(backend, "fp32" if precision == "fp32" else "fp16")
