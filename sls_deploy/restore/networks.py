"""What restores tiles here: an engine where one can run, else ONNX Runtime; and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sls_deploy.config import Precision, RestoreConfig
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.engine.stage import in_bytes, precision_of
from sls_deploy.errors import SlsError
from sls_deploy.receptive.field import ReceptiveField, receptive_field
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.run import Run
from sls_deploy.runtime.exported import ExportedGraph, graph_file, read_exported
from sls_deploy.runtime.onnxruntime import OnnxRunner, Provider
from sls_deploy.runtime.runner import Runner
from sls_deploy.runtime.tensorrt import EngineRunner
from sls_deploy.validate.engines import engine_name, why_stale

WIDEST_MARGIN = 32
"""Input pixels around a tile that are given up at most, unless more are asked for: a network that
looks further does so through averages of wide windows, which more margin hardly changes."""
_STEP = 32
"""Pixels that sides of tiles are multiples of on a GPU: each new size is made ready for first."""
_ON_GPU: tuple[Precision, ...] = ("fp16", "bf16", "fp32", "int8")
_ON_CPU: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""In the order of choice. On the CPU, ONNX Runtime computes fp16 in fp32 and has no bf16."""


@dataclass(frozen=True)
class Network:
    """One budget's network, ready to restore tiles."""

    budget: float
    """Which."""
    runner: Runner
    """What runs it."""
    graph: ExportedGraph
    """The exported file that it is or was built from."""
    field: ReceptiveField
    """What an output pixel hangs on."""
    told: str
    """What runs it, and why nothing faster does, such as 'ONNX Runtime fp32 on the CPU'."""
    smallest: tuple[int, int] = (1, 1)
    """Least height and width that it takes, pixels."""
    largest: tuple[int, int] | None = None
    """Greatest height and width that it takes, pixels; None if there is no limit."""
    fewest: int = 1
    """Fewest tiles that it takes at once."""
    most: int | None = None
    """Most tiles that it takes at once; None if there is no limit."""
    on_gpu: bool = False
    """Whether each new size of tile costs time, as it does on a GPU."""

    @property
    def margin(self) -> int:
        """Input pixels around a tile that are worth restoring with it."""
        seen = self.field.pixels
        return WIDEST_MARGIN if seen is None else min(seen, WIDEST_MARGIN)

    def close(self) -> None:
        """Let go of what runs it."""
        self.runner.close()


def open_network(run: Run, budget: float, options: RestoreConfig) -> Network:
    """Get a budget's network ready on what this machine has.

    Engines come first, then ONNX Runtime on the GPU, then on the CPU.

    Args:
        run: holds the budget, exported.
        budget: which one.
        options: backend and precision, if one was asked for.

    Raises:
        SlsError: the budget was not exported, or nothing of what was asked for can run here; says
            why not.
    """
    run.require("export", budget)
    refused: dict[str, None] = {}
    no_engine = ""
    for choice in _choices(run, budget, options):
        if choice.kind == "onnxruntime" and options.backend == "auto":
            no_engine = no_engine or f" ({'; '.join(refused) or 'no engine of it was built'})"
        try:
            network = choice.open()
        except SlsError as error:
            refused[f"{choice.name}: {error.what}"] = None
            continue
        return replace(network, told=f"{choice.name}{no_engine}")
    asked = f"{options.precision} " if options.precision else ""
    reasons = "; ".join(refused) or "there are no files of it"
    what = f"nothing {asked}of budget {budget:g} can run here ({reasons})"
    raise SlsError(what, str(run.path), "`sls-deploy export` or `sls-deploy build` makes more.")


def tile_sizes(networks: Sequence[Network], options: RestoreConfig) -> TileSizes:
    """How pictures are cut, so that every network can take the tiles."""
    margin = max(network.margin for network in networks)
    limits = [network.largest for network in networks if network.largest]
    return TileSizes(
        longest=options.tile,
        margin=margin if options.overlap is None else options.overlap,
        blend=options.blend,
        multiple=math.lcm(*(network.graph.multiple for network in networks)),
        grid=math.lcm(*(network.field.multiple for network in networks)),
        least=_each(max, [network.smallest for network in networks]),
        most=_each(min, limits) if limits else None,
        step=_STEP if any(network.on_gpu for network in networks) else 1,
    )


def _each(choose: Callable[..., int], sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    heights, widths = zip(*sides, strict=True)
    return choose(heights), choose(widths)


@dataclass(frozen=True)
class _Choice:
    """Something that may be able to run here."""

    name: str
    kind: Literal["tensorrt", "onnxruntime"]
    open: Callable[[], Network]


def _choices(run: Run, budget: float, options: RestoreConfig) -> Iterator[_Choice]:
    """What may run, in the order of preference."""
    exported = run.folder("export", budget)

    def order(usual: Sequence[Precision]) -> Sequence[Precision]:
        return [options.precision] if options.precision else usual

    if options.backend != "onnxruntime":
        plans = sorted(run.folder("engines", budget).glob("*.plan"))
        for precision in order(_ON_GPU):
            for plan in plans:
                if precision_of(plan) == precision and not in_bytes(plan):
                    opened = _engine(run, budget, plan, exported)
                    yield _Choice(engine_name(plan), "tensorrt", opened)
    if options.backend != "tensorrt":
        places: tuple[tuple[Provider, str, Sequence[Precision]], ...] = (
            ("cuda", "the GPU", _ON_GPU),
            ("cpu", "the CPU", _ON_CPU),
        )
        for provider, device, usual in places:
            for precision in order(usual):
                path = graph_file(exported, precision)
                if path.is_file():
                    name = f"ONNX Runtime {precision} on {device}"
                    yield _Choice(name, "onnxruntime", _graph(budget, path, provider, name))


def _engine(run: Run, budget: float, plan: Path, exported: Path) -> Callable[[], Network]:
    def opened() -> Network:
        if reason := why_stale(run, budget, plan):
            raise SlsError(reason, str(plan))
        manifest = verified_manifest(plan)
        graph = read_exported(exported / manifest.onnx)
        least, most = manifest.min_shape, manifest.max_shape
        return Network(
            budget,
            EngineRunner(plan),  # first: what refuses needs no receptive field
            graph,
            receptive_field(graph.model),
            "",
            smallest=(least[2], least[3]),
            largest=(most[2], most[3]),
            fewest=least[0],
            most=most[0],
            on_gpu=True,
        )

    return opened


def _graph(budget: float, path: Path, provider: Provider, name: str) -> Callable[[], Network]:
    def opened() -> Network:
        graph = read_exported(path)
        runner = OnnxRunner(path, name, provider=provider, sizes_vary=True)
        least = graph.fixed or (graph.least_side, graph.least_side)
        return Network(
            budget,
            runner,
            graph,
            receptive_field(graph.model),
            "",
            smallest=least,
            largest=graph.fixed,
            fewest=graph.batch or 1,
            most=graph.batch,
            on_gpu=provider == "cuda",
        )

    return opened
