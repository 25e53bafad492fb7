"""An order of channels in which 2:4 keeps more of what counts; free at run time.

Channel permutation for N:M: Pool and Yu, NeurIPS 2021. Here whole streams are reordered, before any
mask is chosen, and what counts is what removing a weight costs after correction, not its magnitude:
w^2 / [H^-1] (optimal brain surgeon, Hassibi and Stork, NeurIPS 1992), weighted by what the picture
feels of the filter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sls_deploy.models.model import RestorationModel
from sls_deploy.search.channel_flow import find_streams
from sls_deploy.search.channels import Numbers, Stream
from sls_deploy.search.layers import Layer
from sls_deploy.search.reorder import computes_the_same, reorder
from sls_deploy.search.sensitivity import output_metric
from sls_deploy.search.solve_layers import solvable
from sls_deploy.search.sums import Calibration, dense_sums
from sls_deploy.search.trace import Trace
from sls_deploy.sparsity.least_squares import Problem
from sls_deploy.sparsity.permutation import Reader, find_permutation, kept, unconstrained

_PASSES = 32
"""Backward passes that the weight of each filter is estimated from."""
_SWEEPS = 2
"""Times that streams which share a layer are gone through."""

Importance = dict[tuple[str, int], NDArray[np.float64]]
"""By layer and convolution group: [filters * taps, channels]."""


@dataclass(frozen=True)
class Gain:
    """What a layer keeps of its importance, as shares of all of it."""

    name: str
    """The layer."""
    before: float
    """Under 2:4 in the old order of channels."""
    after: float
    """Under 2:4 in the new one."""
    unconstrained: float
    """By the best half of every filter and tap, which no 2:4 can beat."""

    @property
    def regained(self) -> float:
        """Share of the gap between 2:4 and the best half that the new order closes."""
        gap = self.unconstrained - self.before
        return (self.after - self.before) / gap if gap > 0 else 0.0


@dataclass(frozen=True)
class Permutation:
    """A network in its new order."""

    model: RestorationModel
    """It computes what the old one does."""
    streams: int
    """Streams that were reordered."""
    rejected: int
    """Streams whose new order would have changed what the network computes."""
    gains: tuple[Gain, ...]
    """Every prunable layer that reads one of them."""
    seconds: float
    """Wall time of it all, importance included."""

    def facts(self) -> dict[str, Any]:
        """What ratios.json says of it: the median share of the gap regained, and every layer."""
        return {
            "streams": self.streams,
            "rejected": self.rejected,
            "seconds": self.seconds,
            "regained": median(gain.regained for gain in self.gains) if self.gains else 0.0,
            "layers": [{**asdict(gain), "regained": gain.regained} for gain in self.gains],
        }


def permute(
    trace: Trace,
    model: RestorationModel,
    layers: Sequence[Layer],
    calibration: Calibration,
    report: Callable[[int, int], None] = lambda _, __: None,
) -> Permutation:
    """Reorder the channels that prunable layers read.

    Args:
        trace: the network's operations.
        model: the dense network; it is not changed.
        layers: its prunable layers.
        calibration: pictures and memory.
        report: called with the number of streams that are done, and of all.
    """
    started = time.monotonic()
    streams = find_streams(trace)
    names = [layer.name for layer in layers]
    report(0, len(streams))
    importance = measure_importance(trace, model, names, calibration)
    before = {key: array.copy() for key, array in importance.items()}
    chosen = [
        (stream, order)
        for stream, order in zip(streams, _search(streams, importance, report), strict=True)
        if not np.array_equal(order, np.arange(stream.size))
    ]
    found = len(chosen)
    moved = reorder(trace, model, chosen)
    if not computes_the_same(model, moved):
        alone = (reorder(trace, model, [pair]) for pair in chosen)
        same = [computes_the_same(model, item) for item in alone]
        chosen = [pair for pair, holds in zip(chosen, same, strict=True) if holds]
        moved = reorder(trace, model, chosen)
        if not computes_the_same(model, moved):
            chosen, moved = [], reorder(trace, model, [])
    seconds = round(time.monotonic() - started, 2)
    gains = _gains(chosen, before)
    return Permutation(moved.eval(), len(chosen), found - len(chosen), gains, seconds)


def measure_importance(
    trace: Trace, model: RestorationModel, layers: Sequence[str], calibration: Calibration
) -> Importance:
    """What removing each weight alone costs, in squared error of the picture.

    Args:
        trace: the network's operations.
        model: the dense network.
        layers: those wanted; group convolutions give one matrix for each group.
        calibration: pictures and memory.
    """
    metric = output_metric(trace, model, layers, calibration, _PASSES)
    importance: Importance = {}
    with torch.no_grad():
        for name, hessian in dense_sums(trace, model, layers, calibration):
            weight = model.network.get_parameter(f"{name}.weight")
            filters = trace.layout(name).filters(weight.detach())
            felt = metric[name].diagonal().chunk(len(hessian))
            for group, part in enumerate(filters.chunk(len(hessian))):
                sums = hessian[group]
                with solvable(name):
                    problem = Problem.of(part, sums, part.flatten(1).double() @ sums)
                    inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.hessian))
                cost = part.double().flatten(1).square() / inverse.diagonal()
                cost = cost.view(part.shape) * felt[group].view(-1, 1, 1)
                rows = cost.movedim(2, 1).flatten(0, 1)
                importance[name, group] = np.ascontiguousarray(rows.numpy())
    return importance


def _search(
    streams: Sequence[Stream], importance: Importance, report: Callable[[int, int], None]
) -> list[Numbers]:
    """An order for each stream; the importance is brought into these orders on the way."""
    orders = [np.arange(stream.size) for stream in streams]
    readers = [_readers(stream, importance) for stream in streams]
    shared = _shared(readers)
    for sweep in range(_SWEEPS):
        for number, keys in enumerate(readers):
            if not keys or (sweep and not shared & keys.keys()):
                continue
            report(number, len(streams))
            given = [Reader(importance[key], at) for key, at in keys.items()]
            found = find_permutation(given, streams[number].size, seed=0)
            for key, at in keys.items():
                array = importance[key]
                array[:, at] = array[:, at[found.order]]
            orders[number] = orders[number][found.order]
    return orders


def _readers(stream: Stream, importance: Importance) -> dict[tuple[str, int], Numbers]:
    """The layers with importance that read a stream, and where its channels lie in them."""
    places = {
        (place.axis.name.removesuffix(".weight"), place.axis.group): place.at
        for place in stream.ends("in")
    }
    return {key: at for key, at in places.items() if key in importance}


def _shared(readers: Sequence[Mapping[tuple[str, int], Numbers]]) -> set[tuple[str, int]]:
    """Layers that read several streams."""
    seen: set[tuple[str, int]] = set()
    twice: set[tuple[str, int]] = set()
    for keys in readers:
        twice |= seen & keys.keys()
        seen |= keys.keys()
    return twice


def _gains(chosen: Sequence[tuple[Stream, Numbers]], before: Importance) -> tuple[Gain, ...]:
    after = {key: array.copy() for key, array in before.items()}
    touched: dict[tuple[str, int], None] = {}
    for stream, order in chosen:
        for key, at in _readers(stream, before).items():
            after[key][:, at] = after[key][:, at[order]]
            touched[key] = None
    by_layer: dict[str, list[tuple[str, int]]] = {}
    for key in touched:
        by_layer.setdefault(key[0], []).append(key)
    gains = []
    for name, keys in by_layer.items():
        whole = sum(float(before[key].sum()) for key in keys)
        if whole:
            shares = (
                sum(kept(before[key]) for key in keys) / whole,
                sum(kept(after[key]) for key in keys) / whole,
                sum(unconstrained(before[key]) for key in keys) / whole,
            )
            gains.append(Gain(name, *shares))
    return tuple(gains)
