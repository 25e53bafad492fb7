"""What restores tiles here: an engine where one can run, else ONNX Runtime; and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sls_deploy.config import Precision, RestoreConfig
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.engine.stage import precision_of
from sls_deploy.errors import SlsError
from sls_deploy.receptive.field import ReceptiveField, receptive_field
from sls_deploy.restore.tiles import TileSizes
from sls_deploy.run import Run
from sls_deploy.runtime.exported import ExportedGraph, read_exported
from sls_deploy.runtime.onnxruntime import OnnxRunner, Provider
from sls_deploy.runtime.runner import Runner
from sls_deploy.runtime.tensorrt import EngineRunner
from sls_deploy.validate.engines import engine_name, why_stale

WIDEST_MARGIN = 32
"""Input pixels around a tile that are given up at most, unless more are asked for: a network that
looks further does so through averages of wide windows, which more margin hardly changes."""
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
    smallest: int = 1
    """Least side that it takes, pixels."""
    longest: int | None = None
    """Longest side that it takes, pixels; None if there is no limit."""
    most: int | None = None
    """Most tiles that it takes at once; None if there is no limit."""

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
    refused: dict[str, str] = {}
    no_engine = ""
    for choice in _choices(run, budget, options):
        if choice.kind == "onnxruntime" and options.backend == "auto":
            no_engine = f" ({next(iter(refused.values()), 'no engine of it was built')})"
        try:
            network = choice.open()
        except SlsError as error:
            refused[choice.name] = f"{choice.name}: {error.what}"
            continue
        return replace(network, told=f"{choice.name}{no_engine}")
    asked = f"{options.precision} " if options.precision else ""
    reasons = "; ".join(refused.values()) or "there are no files of it"
    what = f"nothing {asked}of budget {budget:g} can run here ({reasons})"
    raise SlsError(what, str(run.path), "`sls-deploy export` or `sls-deploy build` makes more.")


def tile_sizes(networks: Sequence[Network], options: RestoreConfig) -> TileSizes:
    """How pictures are cut, so that every network can take the tiles."""
    fixed = next((network.graph.fixed for network in networks if network.graph.fixed), None)
    longest = min(network.longest or options.tile for network in networks)
    margin = max(network.margin for network in networks)
    multiple = math.lcm(*(network.graph.multiple for network in networks))
    grid = math.lcm(*(network.field.multiple for network in networks))
    return TileSizes(
        longest=min(longest, options.tile),
        margin=margin if options.overlap is None else options.overlap,
        blend=options.blend,
        multiple=multiple,
        grid=grid,
        least=max(max(network.graph.least_side, network.smallest) for network in networks),
        exact=fixed,
    )


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
                if precision_of(plan) == precision and "uint8" not in plan.stem:
                    opened = _engine(run, budget, plan, exported)
                    yield _Choice(engine_name(plan), "tensorrt", opened)
    if options.backend != "tensorrt":
        places: tuple[tuple[Provider, str, Sequence[Precision]], ...] = (
            ("cuda", "the GPU", _ON_GPU),
            ("cpu", "the CPU", _ON_CPU),
        )
        for provider, device, usual in places:
            for precision in order(usual):
                path = exported / f"model.{precision}.onnx"
                if path.is_file():
                    name = f"ONNX Runtime {precision} on {device}"
                    yield _Choice(name, "onnxruntime", _graph(budget, path, provider, name))


def _engine(run: Run, budget: float, plan: Path, exported: Path) -> Callable[[], Network]:
    def opened() -> Network:
        if reason := why_stale(run, budget, plan):
            raise SlsError(reason, str(plan))
        manifest = verified_manifest(plan)
        graph = read_exported(exported / manifest.onnx)
        return Network(
            budget,
            EngineRunner(plan),
            graph,
            receptive_field(graph.model),
            "",
            smallest=max(manifest.min_shape[2:]),
            longest=min(manifest.max_shape[2:]),
            most=manifest.max_shape[0],
        )

    return opened


def _graph(budget: float, path: Path, provider: Provider, name: str) -> Callable[[], Network]:
    def opened() -> Network:
        graph = read_exported(path)
        runner = OnnxRunner(path, name, provider=provider)
        return Network(budget, runner, graph, receptive_field(graph.model), "", most=graph.batch)

    return opened
