"""`sls-deploy inspect` of an engine: how it was built, and what is proven of its sparsity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sls_deploy.engine.device import Device
    from sls_deploy.engine.evidence import LayerEvidence
    from sls_deploy.engine.manifest import EngineManifest
    from sls_deploy.engine.request import Tensor
    from sls_deploy.runtime.engine_inspection import EngineInspection

_OF_TENSORRT, _NUMBERS = (7, 8, 9), (3, 4)
"""Columns of the table of layers: those that only TensorRT can fill, and those of figures."""
_MEASURE = "not measured for this engine; on a GPU `sls-deploy bench --sparsity` does it"


def inspect_engine(target: Path, *, json: bool) -> None:
    """Inspect an engine, by loading it where there is a GPU for it.

    Args:
        target: the engine, with its manifest beside it.
        json: print JSON.

    Raises:
        SlsError: it is not the engine that its manifest describes, or a file beside it is damaged.
    """
    from sls_deploy.cli.output import print_json
    from sls_deploy.runtime import engine_inspection

    found = engine_inspection.inspect_engine(target)
    if json:
        print_json(
            {
                "plan": found.plan,
                "manifest": found.manifest,
                "evidence": found.evidence,
                "not_loaded": found.not_loaded,
                "gain": found.gain and {**vars(found.gain), "verdict": found.gain.verdict},
            }
        )
    else:
        print_engine(found)


def print_engine(found: EngineInspection) -> None:
    """Print what an engine is, layer by layer, and the level that is reached."""
    from sls_deploy.cli.output import print_line

    for line in _facts(found.plan, found.manifest):
        print_line(line)
    _print_layers(found.evidence.layers)
    for note, number in Counter(layer.note for layer in found.evidence.layers).items():
        if note:
            print_line(f"  {number} of {len(found.evidence.layers)} layers: {note}")
    print_line(f"evidence {found.evidence.level}: {found.evidence.statement}")
    if found.not_loaded:
        print_line(f"  it was not loaded: {found.not_loaded}")
    print_line(f"  gain: {found.gain or _MEASURE}")


def _facts(plan: Path, manifest: EngineManifest) -> list[str]:
    """How an engine was built, in lines."""
    again = ", taken from the cache" if manifest.from_cache else ""
    smallest, usual, largest = map(
        _sizes, (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    )
    return [
        f"engine {plan}: {manifest.backend} {manifest.backend_version} for "
        f"{manifest.architecture}, {manifest.precision}, budget {manifest.budget:g}",
        f"  {manifest.plan_bytes / 2**20:.1f} MiB, built from {manifest.onnx} in "
        f"{manifest.seconds:.1f} s and {manifest.peak_mib} MiB{again}",
        f"  built {_device(manifest.device)}; {_options(manifest)}",
        f"  takes {smallest} to {largest}, kernels chosen for {usual}",
        f"  {_tensors(manifest.inputs)} -> {_tensors(manifest.outputs)}",
        *(f"  warning: {warning.strip()}" for warning in manifest.warnings),
    ]


def _device(device: Device | None) -> str:
    if device is None:
        return "without a GPU"
    clock = f" at {device.sm_clock_mhz} MHz" if device.sm_clock_mhz else ""
    locked = " (locked)" if device.clocks_locked else ""
    return f"on an {device.name}{clock}{locked}, driver {device.driver or 'unknown'}"


def _options(manifest: EngineManifest) -> str:
    """What the builder was told beside the defaults."""
    from sls_deploy.engine.request import BuildOptions

    usual = asdict(BuildOptions())
    told = [
        f"{name} {value}"
        for name, value in asdict(manifest.options).items()
        if value != usual[name]
    ]
    return ", ".join(told) or "default options"


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _tensors(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{item.name} {item.dtype} {list(item.shape)}" for item in tensors)


def _print_layers(layers: Sequence[LayerEvidence]) -> None:
    from sls_deploy.cli.output import print_table
    from sls_deploy.onnx_weights import shown

    rows = [
        [
            shown(layer.name),
            layer.operator,
            layer.precision,
            f"{layer.c_in}",
            f"{layer.groups}",
            _answer(layer.legal_2_4),
            _answer(layer.bytes_in_plan),
            _answer(layer.found),
            _answer(layer.chosen),
            layer.tactic or "-",
            layer.reason or "eligible",
        ]
        for layer in layers
    ]
    columns = ["layer", "operator", "precision", "C_in", "groups", "2:4", "bytes in plan",
               "found", "chosen", "kernel", "sparse tensor cores"]  # fmt: skip
    untold = [column for column in _OF_TENSORRT if all(row[column] == "-" for row in rows)]
    shown_columns = [place for place in range(len(columns)) if place not in untold]
    title = "layers; '-' is what TensorRT did not tell, or bytes cannot"
    if untold:
        names = ", ".join(columns[column] for column in untold)
        title = f"layers; '-' is what bytes cannot tell; TensorRT told nothing of: {names}"
    print_table(
        title,
        [columns[place] for place in shown_columns],
        [[row[place] for place in shown_columns] for row in rows],
        left=[n for n, place in enumerate(shown_columns) if place not in _NUMBERS],
    )


def _answer(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[value]
