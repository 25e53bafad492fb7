"""Chooses what stays fp32 in an fp16 or bf16 graph, by what it does to real pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sls_deploy.calibration.fallback import fall_back
from sls_deploy.calibration.ranges import Peak
from sls_deploy.errors import SlsError
from sls_deploy.export.passes.half import stays_fp32
from sls_deploy.export.passes.half_types import FLOAT_SLOTS, LARGEST, HalfPrecision
from sls_deploy.onnx_layers import WEIGHTED
from sls_deploy.progress import Report, silent

MARGIN = 2.0
"""How far below the type's largest number activations must stay on calibration pictures: others
may drive them further. Constants need no margin."""


@dataclass(frozen=True)
class HalfChoice:
    """What stays fp32, and how far the rest is from doing harm."""

    keep: Mapping[str, str]
    """Operators to keep in fp32, by name, and why."""
    largest: float
    """Largest magnitude on calibration pictures of what the half type has to hold."""
    node: str
    """The operator that computes it; empty if nothing becomes half."""
    limit: float
    """Largest number of the half type."""
    loss_db: float
    """Loss of PSNR with those kept, in dB."""
    loss_all_db: float
    """Loss with none kept but those that overflow, in dB."""
    single_db: Mapping[str, float]
    """Loss of each layer alone in half, in dB; empty if all of them together hold the limit."""


def choose_half(
    graph: ir.Model,
    precision: HalfPrecision,
    peaks: Sequence[Peak],
    loss: Callable[[frozenset[str]], float],
    limit_db: float,
    report: Report = silent,
) -> HalfChoice:
    """Choose the operators that `Half` must keep in fp32.

    Range first: where an activation gets beyond half of what the type holds, the operator that
    computes it stays fp32 and so does every one that reads it, whose weights may bring it back
    down; so no value that is too large is ever cast. Operators with a constant that the type
    cannot hold stay too. Then loss: if all the rest in half costs more than the limit, the worst
    layers stay (`fall_back`).

    A layer is an operator with weights and all that follows it up to the next one: its result would
    else be rounded right behind it, and a Cast stand on both sides of each activation. Where
    branches meet, the operator belongs to the layer that comes later.

    Args:
        graph: the fp32 graph, with a name on every operator.
        precision: the half type.
        peaks: the largest activations on calibration pictures, of `measure_peaks`.
        loss: measures the PSNR lost on calibration pictures, in dB, when the operators of the given
            names stay fp32 and all others become half.
        limit_db: the most that may be lost, in dB.
        report: told before every measurement of layers.

    Raises:
        SlsError: an activation is NaN, or a loss is not finite.
    """
    for peak in peaks:
        if math.isnan(peak.largest):
            fix = "Check the weights: fp32 gives it too."
            raise SlsError("gives NaN on calibration pictures", peak.node, fix)
    full = stays_fp32(graph, precision)
    keep = _beyond_range(graph.graph, precision, peaks, full)
    layers = _layers(graph.graph, full | keep.keys())
    everything = frozenset(name for nodes in layers.values() for name in nodes)

    def loss_of(lowered: frozenset[str]) -> float:
        halved = {name for layer in lowered for name in layers[layer]}
        return loss(frozenset(keep) | (everything - halved))

    found = fall_back(list(layers), loss_of, limit_db, report, f"losses of {precision}")
    largest = _largest_half(graph.graph, peaks, full | keep.keys())
    for layer in found.kept:
        why = f"layer {layer} alone loses {found.single_db[layer]:.3f} dB in {precision}"
        keep.update(dict.fromkeys(layers[layer], why))
    return HalfChoice(
        keep=keep,
        largest=largest.largest,
        node=largest.node,
        limit=LARGEST[precision],
        loss_db=found.loss_db,
        loss_all_db=found.loss_all_db,
        single_db=found.single_db,
    )


def _beyond_range(
    graph: ir.Graph, precision: HalfPrecision, peaks: Sequence[Peak], full: Collection[str]
) -> dict[str, str]:
    """Operators that compute, read or hold what is too large, and why; not those in `full`."""
    limit = LARGEST[precision]
    high = {peak.tensor: peak for peak in peaks if peak.largest > limit / MARGIN}
    keep: dict[str, str] = {}
    for node in graph:
        name = node.name or ""
        if name in full:
            continue
        for result in node.outputs:
            if peak := high.get(result.name or ""):
                keep[name] = (
                    f"reaches {peak.largest:g}, near or beyond the {limit:g} of {precision}"
                )
        for index, value in enumerate(node.inputs):
            if value is None or name in keep or index in FLOAT_SLOTS.get(node.op_type, ()):
                continue
            if peak := high.get(value.name or ""):
                keep[name] = f"reads {peak.largest:g} from {peak.node}"
            elif (constant := _magnitude(value)) > limit:
                keep[name] = f"holds {constant:g}; {precision} ends at {limit:g}"
    return keep


def _magnitude(value: ir.Value) -> float:
    """The largest magnitude of a float constant; 0 for anything else."""
    if value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return 0.0
    return float(np.abs(value.const_value.numpy()).max(initial=0.0))


def _layers(graph: ir.Graph, full: Collection[str]) -> dict[str, list[str]]:
    """Operators by layer, without those that stay fp32; a layer is called like its first one."""
    names: list[str] = []
    place: dict[ir.Node, int] = {}
    members: list[list[str]] = []
    for node in graph:
        sources = [value.producer() for value in node.inputs if value is not None]
        weight = node.inputs[1] if node.op_type in WEIGHTED else None
        if (weight is not None and weight.const_value is not None) or not names:
            place[node] = len(names)
            names.append(node.name or "")
            members.append([])
        else:
            place[node] = max((place[source] for source in sources if source), default=0)
        if node.name not in full:
            members[place[node]].append(node.name or "")
    return {name: nodes for name, nodes in zip(names, members, strict=True) if nodes}


def _largest_half(graph: ir.Graph, peaks: Sequence[Peak], full: Collection[str]) -> Peak:
    """The largest of what a half operator computes or reads."""
    half: set[str] = set()
    for node in graph:
        if node.name not in full:
            half.update(value.name or "" for value in (*node.inputs, *node.outputs) if value)
    held = (peak for peak in peaks if peak.tensor in half)
    return max(held, key=lambda peak: peak.largest, default=Peak("", "", 0.0))
