"""Times every form of a network that can run here: of a run, of an ONNX file, of an engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from sls_deploy.config import BuildConfig, ModelConfig, Precision
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.graph import fit_shapes
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.engine.stage import precision_of
from sls_deploy.errors import SlsError
from sls_deploy.export.results import exported_weights
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import load_model
from sls_deploy.models.restoration import COLOURS
from sls_deploy.onnx_file import read_model
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.bench_result import Bench, bench_file_name, write_bench
from sls_deploy.runtime.contest import Contestant, hold_contest
from sls_deploy.runtime.exported import graph_file
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures
from sls_deploy.runtime.tensorrt import EngineRunner
from sls_deploy.validate.engines import engine_name, why_stale
from sls_deploy.validate.figures import DENSE, SPARSE

BackendChoice = Literal["auto", "torch", "onnxruntime", "tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class BenchOptions:
    """How to time."""

    backend: BackendChoice = "auto"
    """What runs the forms; 'auto' takes all. Dense PyTorch always runs, to compare with."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """Exported forms and engines to time."""
    shape: tuple[int, ...] | None = None
    """Input, NCHW; None for the size that engines are built for."""
    warm_up: int = 3
    """Runs of each form before those that count."""
    repeats: int = 100
    """Runs of each form that count."""
    threads: int | None = None
    """Threads on the CPU; None leaves their number to PyTorch."""
    profile: bool = False
    """Whether to time layers, too."""

    @property
    def complete(self) -> bool:
        """Whether all forms are timed: only then the figures are kept in a run."""
        return self.backend == "auto" and set(self.precisions) == set(get_args(Precision))


def bench_run(run: Run, budget: float, options: BenchOptions, report: Report = silent) -> Bench:
    """Time dense and sparse PyTorch, every exported graph and every engine that can run here.

    On the first visible GPU where PyTorch sees one, else on the CPU. Figures of all forms are also
    written into the run folder, `bench/<budget>/`, for the report.

    Args:
        run: holds the budget, searched and exported.
        budget: which one.
        options: how to time.
        report: receives a report after each block of runs.

    Raises:
        SlsError: the budget was not searched or not exported, or the network cannot take the
            input.
    """
    searched, exported = run.require("search", budget), run.require("export", budget)
    config = run.config
    if config.model.weights is None:
        raise SlsError("model.weights is missing", str(run.path / "config.toml"))
    shape = options.shape or config.build.opt_shape
    with run.locked(), _threads(options.threads) as threads:
        about = load_model(config.model.weights, config.model).description
        channels = COLOURS * about.frames
        if options.shape is None:
            shape = (shape[0], channels, *shape[2:])
        if shape[1] != channels:
            fix = f"Give {shape[0]}x{channels}x{shape[2]}x{shape[3]}."
            raise SlsError(f"the network takes {channels} channels, not {shape[1]}", "--shape", fix)
        not_run: dict[str, str] = {}
        start, sparse = time.monotonic(), searched / exported_weights(exported)
        plans = sorted(run.folder("engines", budget).glob("*.plan"))
        sources = run.hashes([sparse, *sorted(exported.glob("*.onnx")), *plans])
        forms = [
            *_networks(
                {
                    DENSE: config.model.weights,
                    SPARSE: sparse,
                },
                config.model,
            ),
            *_graphs(exported, options, threads),
            *_engines(run, budget, options, not_run),
        ]
        bench = hold_contest(
            str(run.path),
            budget,
            [_padded(form, about) for form in forms if _wanted(form, options)],
            _pictures(shape),
            warm_up=options.warm_up,
            repeats=options.repeats,
            threads=threads,
            profile=options.profile,
            not_run=not_run,
            report=report,
        )
        if options.complete:
            path = write_bench(bench_path(run, budget, bench), bench)
            key = path.relative_to(run.path).with_suffix("").as_posix()
            run.record(key, {}, sources, [path], time.monotonic() - start)
    return bench


def bench_path(run: Run, budget: float, bench: Bench) -> Path:
    """Where the figures of a budget are kept: one file for each device and shape."""
    return run.path / "bench" / budget_name(budget) / bench_file_name(bench)


def bench_file(path: Path, options: BenchOptions, report: Report = silent) -> Bench:
    """Time one ONNX file or one engine.

    Args:
        path: an ONNX file, or an engine `.plan` with its manifest beside it.
        options: how to time; its precisions mean nothing here.
        report: receives a report after each block of runs.

    Raises:
        SlsError: no such file, it is damaged, it cannot run here or not with the backend that was
            asked for, or it cannot take the input.
    """
    with _threads(options.threads) as threads:
        if path.suffix == ".plan":
            manifest = verified_manifest(path)
            form, shape = _engine(path, path.name, manifest), manifest.opt_shape
        else:
            form = _graph(path, path.name, threads)
            shape = fit_shapes(read_model(path), BuildConfig()).opt_shape
        if options.backend not in ("auto", form.backend):
            fix = f"Leave --backend out, or give {form.backend}."
            raise SlsError(f"does not run with {options.backend}", str(path), fix)
        return hold_contest(
            str(path),
            None,
            [form],
            _pictures(options.shape or shape),
            warm_up=options.warm_up,
            repeats=options.repeats,
            threads=threads,
            profile=options.profile,
            not_run={},
            report=report,
        )


def _device() -> Literal["cpu", "cuda"]:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """PyTorch at a number of threads; gives the number that it uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _pictures(shape: tuple[int, ...]) -> Pictures:
    try:
        return np.random.default_rng(0).random(shape, dtype=np.float32)
    except MemoryError:
        what = f"needs {math.prod(shape) * 4 / 2**30:.1f} GiB for the input alone"
        raise SlsError(what, "--shape", "Give a smaller one.") from None


def _networks(weights: Mapping[str, Path], wanted: ModelConfig) -> Iterable[Contestant]:
    device = _device()
    for name, path in weights.items():

        def opened(path: Path = path, name: str = name) -> TorchRunner:
            return TorchRunner(load_model(path, wanted).to(device), name)

        yield Contestant(name, "torch", device, opened, reference=name == DENSE)


def _graphs(exported: Path, options: BenchOptions, threads: int) -> Iterable[Contestant]:
    for precision in options.precisions:
        for io, told in (("float", ""), ("uint8", " uint8")):
            path = graph_file(exported, precision, io)
            if path.is_file():
                yield _graph(path, f"ONNX {precision}{told}", threads)


def _graph(path: Path, name: str, threads: int) -> Contestant:
    device = _device()
    return Contestant(
        name, "onnxruntime", device, lambda: OnnxRunner(path, name, threads, provider=device)
    )


def _engines(
    run: Run, budget: float, options: BenchOptions, not_run: dict[str, str]
) -> Iterable[Contestant]:
    """Engines of the wanted precisions; what cannot be told of others goes to `not_run`."""
    if options.backend not in ("auto", *BACKENDS):
        return
    for plan in sorted(run.folder("engines", budget).glob("*.plan")):
        if precision_of(plan) not in options.precisions:
            continue
        name = engine_name(plan)
        if stale := why_stale(run, budget, plan):
            not_run[name] = stale
            continue
        try:
            manifest = verified_manifest(plan)
        except SlsError as error:
            not_run[name] = f"{error.what}. {error.fix}"
            continue
        yield _engine(plan, name, manifest)


def _engine(plan: Path, name: str, manifest: EngineManifest) -> Contestant:
    return Contestant(name, manifest.backend, "cuda", lambda: EngineRunner(plan, name))


def _wanted(form: Contestant, options: BenchOptions) -> bool:
    return form.reference or options.backend in ("auto", form.backend)


def _padded(form: Contestant, about: Description) -> Contestant:
    def opened() -> Padded:
        return Padded(form.open(), about.least_side, about.multiple, about.scale)

    return Contestant(form.name, form.backend, form.device, opened, form.reference)
