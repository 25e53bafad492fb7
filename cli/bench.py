"""`sls-deploy bench`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.runtime.bench_result import Bench, BenchRow
    from sls_deploy.validate.bench import BenchOptions

_LAYERS_SHOWN = 10
_RUNS_FOR_P90, _RUNS_FOR_P99 = 10, 100
"""Runs below which a percentile would only be one of the longest times."""
_REPEATS = 100
_BACKENDS = ("auto", "torch", "onnxruntime", "tensorrt", "tensorrt_rtx")

Target = Annotated[
    Path | None,
    typer.Argument(
        metavar="TARGET", help="Run folder, ONNX file or engine; the newest run if left out."
    ),
]
BenchPrecisions = Annotated[
    str | None,
    typer.Option("--precision", help="Precisions to time [default: all].", show_default=False),
]
BenchBackend = Annotated[str, typer.Option("--backend", help=f"One of {', '.join(_BACKENDS)}.")]
GpuIndex = Annotated[
    int | None,
    typer.Option("--gpu", min=0, help="Which GPU to use, from 0.", show_default=False),
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Runs of each form that count.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads on the CPU.", show_default=False)
]
Profile = Annotated[bool, typer.Option("--profile", help="Time layers, too, where that works.")]
Layers = Annotated[
    bool, typer.Option("--layers", help="Time each distinct layer alone, for a latency table.")
]
Sparsity = Annotated[
    bool, typer.Option("--sparsity", help="Time engines with sparse kernels allowed and not.")
]
OutFile = Annotated[
    Path | None, typer.Option("--out", help="File to write the figures to.", show_default=False)
]


def bench(
    target: Target = None,
    budget: o.Budget = None,
    precision: BenchPrecisions = None,
    backend: BenchBackend = "auto",
    gpu: GpuIndex = None,
    shape: o.OneShape = None,
    repeats: Repeats = _REPEATS,
    threads: Threads = None,
    profile: Profile = False,
    layers: Layers = False,
    sparsity: Sparsity = False,
    out: OutFile = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy bench
    sls-deploy bench runs/rlfn --budget 0.5 --shape 1x3x180x320 --gpu 0

    Time dense and sparse PyTorch, every exported ONNX file and every engine that can run here, in
    turn and on the same input: on the GPU where there is one, else on the CPU. Those that cannot
    run are listed with the reason.
    """
    from sls_deploy.errors import SlsError

    if gpu is not None:
        choose_gpu(gpu)
    if layers and sparsity:
        raise SlsError("--layers and --sparsity are two measurements", "the command line")
    _refuse_unused(locals())
    if backend not in _BACKENDS:
        raise SlsError(f"'{backend}' is no backend", "--backend", f"Give {', '.join(_BACKENDS)}.")
    if layers:
        from sls_deploy.cli.bench_layers import bench_layers

        bench_layers(target, backend, shape, precision, out, json=json)
        return
    if sparsity:
        from sls_deploy.cli.bench_sparsity import bench_sparsity

        bench_sparsity(target, budget, precision, shape, json=json)
        return
    _bench_forms(target, budget, out, _options(locals()), json=json)


def choose_gpu(index: int) -> None:
    """Let CUDA see one GPU only; to be called before anything of CUDA is loaded.

    Args:
        index: place among those that CUDA_VISIBLE_DEVICES names, or among all, counted as
            `nvidia-smi` counts them unless CUDA_DEVICE_ORDER says otherwise.

    Raises:
        SlsError: there is no such GPU.
    """
    from sls_deploy.engine.gpu import visible_gpu
    from sls_deploy.errors import SlsError

    fix = "Leave it out to measure on the CPU; `nvidia-smi -L` lists what is there."
    missing = SlsError("there is no such NVIDIA GPU here", f"--gpu {index}", fix)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [str(index)] if named is None else named.split(",")[index : index + 1]
    if not any(chosen):
        raise missing
    # The driver reads both once, when it is first asked for anything. By itself it counts the
    # fastest GPU first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen[0]
    if visible_gpu() is None:
        raise missing


def _refuse_unused(given: dict[str, Any]) -> None:
    """Refuse flags that mean nothing to what is measured.

    Raises:
        SlsError: names the first such flag.
    """
    from sls_deploy.errors import SlsError

    named = {"profile": False, "repeats": _REPEATS, "backend": "auto"}
    unused = {
        "layers": ("budget", "threads", "profile", "repeats"),
        "sparsity": ("backend", "threads", "profile", "repeats", "out"),
    }
    for kind, flags in unused.items():
        for flag in flags if given[kind] else ():
            if given[flag] != named.get(flag):
                fix = "Leave it out."
                raise SlsError(f"means nothing beside --{kind}", f"--{flag}", fix)


def _options(given: dict[str, Any]) -> BenchOptions:
    from typing import get_args

    from sls_deploy.config import BuildConfig, Precision
    from sls_deploy.config_file import parse_section
    from sls_deploy.validate.bench import BenchOptions

    shape = o.shape_of(given["shape"], "--shape")
    chosen = o.listed(given["precision"])
    checked = parse_section(BuildConfig, {"precisions": chosen}, "--precision")
    return BenchOptions(
        backend=given["backend"],
        precisions=get_args(Precision) if chosen is None else checked.precisions,
        shape=None if shape is None else tuple(shape),
        repeats=given["repeats"],
        threads=given["threads"],
        profile=given["profile"],
    )


def _bench_forms(
    target: Path | None, budget: str | None, out: Path | None, options: BenchOptions, *, json: bool
) -> None:
    from typing import get_args

    from sls_deploy.cli.output import print_json, print_line, progress
    from sls_deploy.config import Precision
    from sls_deploy.errors import SlsError
    from sls_deploy.runtime.bench_result import write_bench
    from sls_deploy.validate.bench import bench_file, bench_path, bench_run

    written = []
    if target is not None and not target.is_dir():
        if budget is not None:
            raise SlsError("means nothing for a file", "--budget", "Name a run folder.")
        if options.precisions != get_args(Precision):
            raise SlsError("means nothing for a file", "--precision", "Name a run folder.")
        with progress(quiet=json) as report:
            results = [bench_file(target, options, report)]
    else:
        run = o.find_run(target)
        budgets = o.chosen_budgets(run, budget, "export")
        if out is not None and len(budgets) > 1:
            raise SlsError(
                f"one file cannot hold {len(budgets)} budgets", "--out", "Name one by --budget."
            )
        with progress(quiet=json) as report:
            results = [bench_run(run, value, options, report) for value in budgets]
        if options.complete:
            written = [
                bench_path(run, value, result)
                for value, result in zip(budgets, results, strict=True)
            ]
    if out is not None:
        written.append(write_bench(out, results[0]))
    if json:
        print_json(results)
        return
    for result in results:
        print_bench(result)
    for path in written:
        print_line(f"wrote {path}")


def print_bench(result: Bench) -> None:
    """Print the figures of every form, and what could not run."""
    from sls_deploy.cli.output import print_line, print_table

    device = result.gpu.name if result.gpu else f"{result.processor}, threads: {result.threads}"
    budget = "" if result.budget is None else f"budget {result.budget:g} of "
    title = (
        f"{budget}{result.target} on {device}, input {'x'.join(map(str, result.shape))}, "
        f"runs in turn: {result.repeats}"
    )
    columns = ["form", "p50 ms", "p90 ms", "p99 ms", "pictures/s", "Mpixel/s", "of dense", "MiB"]
    print_table(title, columns, [_cells(row) for row in result.rows])
    for row in result.rows:
        if row.note:
            print_line(f"{row.name}: {row.note}")
    print_line("MiB: memory that loading a form and its first run added")
    for name, reason in result.not_run.items():
        print_line(f"{name} was not run: {reason}")
    for line in clock_notes(result):
        print_line(line)
    for row in result.rows:
        _print_layers(row)


def clock_notes(result: Bench) -> list[str]:
    """What the clocks of the GPU say about the figures; nothing for a CPU."""
    from sls_deploy.engine.device import clock_warning

    before, after = result.gpu, result.gpu_after
    if before is None or after is None or after.clocks_locked:
        return []
    moved = f"{before.sm_clock_mhz} MHz before and {after.sm_clock_mhz} MHz after"
    known = before.sm_clock_mhz is not None and after.sm_clock_mhz is not None
    return [clock_warning(moved if known else "")]


def _cells(row: BenchRow) -> list[str]:
    timing = row.timing
    return [
        row.name,
        f"{timing.p50:.2f}",
        f"{timing.p90:.2f}" if timing.runs >= _RUNS_FOR_P90 else "-",
        f"{timing.p99:.2f}" if timing.runs >= _RUNS_FOR_P99 else "-",
        f"{row.pictures_per_second:.1f}",
        f"{row.megapixels_per_second:.2f}",
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        "-" if row.memory_mib is None else str(row.memory_mib),
    ]


def _print_layers(row: BenchRow) -> None:
    from sls_deploy.cli.output import print_table

    if not row.layers:
        return
    slowest = sorted(row.layers, key=lambda layer: -layer.ms)[:_LAYERS_SHOWN]
    total = sum(layer.ms for layer in row.layers)
    print_table(
        f"{row.name}, the slowest of {len(row.layers)} layers; all together {total:.2f} ms",
        ["layer", "operator", "ms", "share"],
        [
            [layer.name, layer.kind or "-", f"{layer.ms:.3f}", f"{layer.ms / total:.0%}"]
            for layer in slowest
        ],
        left=(1,),
    )
