"""What a run holds for one budget, in one precision: a graph, and the engines built from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sls_deploy.config import Precision
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.engine.stage import in_bytes, precision_of
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.run import Run
from sls_deploy.runtime.exported import ExportedGraph, graph_file, read_exported
from sls_deploy.validate.engines import why_stale

Io = Literal["float", "uint8"]
"""Pictures as NCHW floats of 0..1, or as NHWC bytes."""

_USUAL: tuple[Precision, ...] = ("fp16", "fp32", "int8", "bf16")
"""Precisions, the one that is taken first if none is asked for; Triton's ONNX Runtime serves the
first two."""


@dataclass(frozen=True)
class Engine:
    """An engine that is what its run built, and what its manifest says."""

    plan: Path
    """The engine; its manifest lies beside it."""
    manifest: EngineManifest
    """What is known of it."""


@dataclass(frozen=True)
class Contents:
    """What is packed of one budget."""

    budget: float
    """Budget that the network was searched for."""
    precision: Precision
    """Precision of the graph and of all engines."""
    io: Io
    """Pictures that they take and give."""
    graph: ExportedGraph
    """The exported graph."""
    graph_sha256: str
    """SHA-256 of its file."""
    engines: tuple[Engine, ...]
    """Sound engines of that graph, by name."""
    left_out: dict[str, str]
    """Engines that are not packed, by name, and why."""


def gather_contents(
    run: Run, budget: float, precision: Precision | None, io: Io, backends: Collection[str]
) -> Contents:
    """Find what can be packed of a budget.

    An engine is left out, with the reason, if it is not what its manifest or the run's says, or if
    it brings code for the host, as version-compatible ones do: such an engine is loaded only on the
    machine that built it.

    Args:
        run: holds the exported graphs, and perhaps engines.
        budget: an exported one.
        precision: of graph and engines; if left out, the first of fp16, fp32, int8 and bf16 that
            has an engine of `backends`, else the first that was exported.
        io: pictures that graph and engines take.
        backends: those whose engines are of use where the package goes.

    Raises:
        SlsError: budget, precision or io was not exported, or the files have changed since.
    """
    exported = run.require("export", budget)
    there = [name for name in _USUAL if graph_file(exported, name, io).is_file()]
    wanted = [name for name in there if precision in (None, name)]
    if not wanted:
        raise _not_exported(run, budget, precision, io)
    left_out: dict[str, str] = {}
    engines = tuple(_sound_engines(run, budget, wanted, io, left_out))
    usable = [engine.manifest for engine in engines if engine.manifest.backend in backends]
    built = {manifest.precision for manifest in usable}
    chosen = next((name for name in wanted if name in built), wanted[0])
    path = graph_file(exported, chosen, io)
    return Contents(
        budget=budget,
        precision=chosen,
        io=io,
        graph=read_exported(path),
        graph_sha256=hash_file(path),
        engines=tuple(engine for engine in engines if engine.manifest.precision == chosen),
        left_out=left_out,
    )


def _not_exported(run: Run, budget: float, precision: Precision | None, io: Io) -> SlsError:
    asked = f"--budget {budget:g}"
    asked += f" --precision {precision}" if precision else ""
    asked += " --io uint8" if io == "uint8" else ""
    form = " for bytes" if io == "uint8" else ""
    what = f"budget {budget:g} was not exported in {precision or 'any precision'}{form}"
    return SlsError(what, str(run.path), f"`sls-deploy export {asked}` does it.")


def _sound_engines(
    run: Run, budget: float, precisions: Sequence[Precision], io: Io, left_out: dict[str, str]
) -> Iterator[Engine]:
    """Engines of a budget that may be packed; why others may not is put into `left_out`."""
    for plan in sorted(run.folder("engines", budget).glob("*.plan")):
        if precision_of(plan) not in precisions:
            continue
        if in_bytes(plan) != (io == "uint8"):
            continue
        try:
            manifest = verified_manifest(plan)
        except SlsError as error:
            left_out[plan.name] = error.what
            continue
        if why := why_stale(run, budget, plan):
            left_out[plan.name] = why
        elif manifest.options.version_compatible:
            left_out[plan.name] = (
                "brings code for the host with it, so it is loaded only where it was built: "
                "build without --version-compatible"
            )
        else:
            yield Engine(plan, manifest)
