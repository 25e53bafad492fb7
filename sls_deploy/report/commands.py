"""What to type to make a run again.

The run's own settings are what every command starts from; flags stand where what was made shows
that others were given. Limits of an export's losses, and layers that were kept out of int8 by name,
leave no trace in the files: if they were given as flags, they are missing here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sls_deploy.config import BuildConfig, Config
from sls_deploy.engine.graph import fit_shapes
from sls_deploy.engine.manifest import EngineManifest
from sls_deploy.onnx_file import facts, read_model
from sls_deploy.report.stored import Stored
from sls_deploy.run import CONFIG, Run
from sls_deploy.runtime.bench_result import Bench
from sls_deploy.sparsity.ratios import WEIGHTS
from sls_deploy.validate.figures import Validation

Flags = tuple[str, ...]
_SHAPES = ("min", "opt", "max")
_LIMITS = {
    "validate.max_loss_db": "--max-loss-db",
    "validate.max_picture_loss_db": "--max-picture-loss-db",
}


def commands(run: Run, stored: Sequence[Stored]) -> tuple[str, ...]:
    """The commands, in order, that make a run again in a new folder.

    Args:
        run: the run.
        stored: what stands of its budgets.
    """
    config, again = run.config, f"{run.path}-again"
    stages: dict[str, Callable[[Stored], Iterable[Flags]]] = {
        "export": lambda one: _export(run, config, one),
        "build": lambda one: _build(run, config, one),
        "validate": lambda one: (_validate(config, each) for each in one.validations),
        "bench": lambda one: map(_bench, one.benches),
    }
    found: list[Flags] = [("search", "--config", str(run.path / CONFIG), "--out", again)]
    for command, flags_of in stages.items():
        budgets: dict[Flags, list[str]] = {}
        for one in stored:
            for flags in flags_of(one):
                budgets.setdefault(flags, []).append(f"{one.budget:g}")
        found += [
            (command, again, "--budget", ",".join(values), *flags)
            for flags, values in budgets.items()
        ]
    found.append(("report", again))
    return tuple(shlex.join(("sls-deploy", *words)) for words in found)


def _export(run: Run, config: Config, stored: Stored) -> Iterator[Flags]:
    if stored.proof is None:
        return
    files, given = stored.proof["files"], config.export
    flags = _unless(set(files) == set(given.precisions), "--precision", ",".join(files))
    in_bytes = any("uint8" in entry for entry in files.values())
    flags += _unless(in_bytes == (given.io == "uint8"), "--io", "uint8" if in_bytes else "float")
    plain = stored.proof["source"]["file"] == WEIGHTS
    if "refill" in stored.ratios and plain == given.refill:
        flags += ("--no-refill",) if plain else ("--refill",)
    # All files of an export take the same sizes, and know which they were to be.
    first = run.folder("export", stored.budget) / next(iter(files.values()))["file"]
    sizes = json.loads(facts(read_model(first)).get("sides", "{}"))
    if isinstance(sizes, list):
        flags += _unless(sizes == list(given.static_shape or ()), "--static-shape", _shape(sizes))
    ranges = {entry["int8"]["ranges"] for entry in files.values() if "int8" in entry}
    for name in ranges - {given.int8_ranges}:
        flags += ("--int8-ranges", name)
    photos = given.calibration or config.data.photos
    for folder in sorted({entry["pictures"] for entry in files.values() if "pictures" in entry}):
        flags += _unless(folder == str(photos), "--calibration", folder)
    yield flags


def _build(run: Run, config: Config, stored: Stored) -> Iterator[Flags]:
    """One command for all engines of the same settings."""
    groups: dict[Flags, dict[str, list[str]]] = {}
    for engine in stored.engines:
        about = engine.manifest
        graph = read_model(run.folder("export", stored.budget) / about.onnx)
        flags = _build_flags(about, config.build, fit_shapes(graph, config.build))
        by_target = groups.setdefault(flags, {})
        by_target.setdefault(about.architecture, []).append(about.precision)
    for flags, by_target in groups.items():
        targets: dict[Flags, list[str]] = {}
        for target, made in by_target.items():
            targets.setdefault(tuple(made), []).append(target)
        for precisions, some in targets.items():
            given = config.build
            told = _unless(set(some) == set(given.architectures), "--arch", ",".join(some))
            usual = set(precisions) == set(given.precisions)
            yield (*told, *_unless(usual, "--precision", ",".join(precisions)), *flags)


def _build_flags(made: EngineManifest, given: BuildConfig, fitted: BuildConfig) -> Flags:
    """Flags beside target and precision; the same sizes may come from other ones asked for."""
    io = "uint8" if made.in_bytes else "float"
    flags = _unless(io == given.io, "--io", io)
    flags += _unless(made.backend == given.backend, "--backend", made.backend)
    for name in _SHAPES:
        sizes = getattr(made, f"{name}_shape")
        flags += _unless(sizes == getattr(fitted, f"{name}_shape"), f"--{name}", _shape(sizes))
    told = made.options
    for name in ("workspace_mib", "optimization_level", "aux_streams", "hardware_compatibility"):
        value = getattr(told, name)
        flags += _unless(value == getattr(given, name), f"--{name.replace('_', '-')}", str(value))
    if told.version_compatible != given.version_compatible:
        no = "" if told.version_compatible else "no-"
        flags += (f"--{no}version-compatible",)
    return flags


def _validate(config: Config, validation: Validation) -> Flags:
    given = config.validate_
    flags = _unless(validation.folder == str(given.pictures), "--data", validation.folder)
    if not validation.totals and given.degradation != "none":
        flags += ("--degradation", "none")
    quality = validation.stages[0].quality
    if quality and (lpips := quality.lpips is not None) != given.lpips:
        flags += ("--lpips" if lpips else "--no-lpips",)
    tile = validation.protocol.tile
    flags += _unless(tile in (None, given.tile), "--tile", str(tile))
    limits = {gate.setting: gate.limit for gate in validation.gates}
    for setting, flag in _LIMITS.items():
        if setting in limits:
            limit = limits[setting]
            own = getattr(given, setting.rpartition(".")[2])
            flags += _unless(limit == own, flag, f"{limit:g}")
    return flags


def _bench(bench: Bench) -> Flags:
    flags = ("--shape", _shape(bench.shape), "--repeats", str(bench.repeats))
    return flags if bench.gpu else (*flags, "--threads", str(bench.threads))


def _unless(same: bool, flag: str, value: str) -> Flags:
    """A flag, unless the settings say the same."""
    return () if same else (flag, value)


def _shape(sizes: Iterable[Any]) -> str:
    return "x".join(map(str, sizes))
