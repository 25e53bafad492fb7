"""How the activations of a graph are spread on real pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.runner import Pictures

BINS = 8192
"""Bins of a histogram, at least half of which lie below the largest magnitude."""


@dataclass(frozen=True)
class Histogram:
    """How often which magnitude occurs in a tensor."""

    counts: NDArray[np.int64]
    """Values other than zero, by magnitude, in equal bins that begin at zero: [BINS]."""
    width: float
    """Width of a bin."""
    zeros: int
    """Values that are exactly zero, as behind a ReLU."""
    largest: float
    """The largest magnitude."""

    @property
    def centres(self) -> NDArray[np.float64]:
        """Magnitude in the middle of each bin: [BINS]."""
        middles: NDArray[np.float64] = np.arange(0.5, len(self.counts)) * self.width
        return middles

    def share_above(self, bound: float) -> float:
        """Share of all values, zeros included, in bins that begin at a magnitude or above it."""
        total = int(self.counts.sum()) + self.zeros
        above = int(self.counts[np.arange(len(self.counts)) * self.width >= bound].sum())
        return above / total if total else 0.0


@dataclass(frozen=True)
class Spread:
    """What the values of one tensor are like."""

    histogram: Histogram
    """Of all values."""
    channel_means: NDArray[np.float64]
    """Mean of every channel: [channels]."""


class SpreadCounter:
    """Counts a tensor batch by batch, in memory that does not grow.

    The first values other than zero say how wide a bin is. When larger ones come, the width is
    doubled by adding bins up in pairs, which loses nothing, as often as it takes.

    Args:
        channel_axis: axis of the channels in every batch; may be negative.
    """

    def __init__(self, channel_axis: int) -> None:
        self._axis = channel_axis
        self._counts = np.zeros(BINS, np.int64)
        self._width = self._largest = 0.0
        self._zeros = self._places = 0
        self._sums = np.zeros(1)

    def add(self, values: NDArray[Any]) -> None:
        """Count one batch.

        Raises:
            SlsError: a value is not finite.
        """
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            fix = "The network overflows on these pictures: export it in fp32 only."
            raise SlsError("holds NaN or infinity", "an activation", fix)
        nonzero = int(np.count_nonzero(magnitudes))
        self._zeros += magnitudes.size - nonzero
        self._sum_channels(values)
        if not nonzero:
            return
        self._widen(largest)
        places = (magnitudes * np.float32(1 / self._width)).astype(np.int32)
        # The largest may be rounded to the end of the last bin.
        counts = np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
        counts[0] -= magnitudes.size - nonzero
        self._counts += counts

    def spread(self) -> Spread:
        """What was counted so far."""
        histogram = Histogram(self._counts.copy(), self._width, self._zeros, self._largest)
        return Spread(histogram, self._sums / max(self._places, 1))

    def _widen(self, largest: float) -> None:
        self._largest = max(self._largest, largest)
        # Never so narrow that its inverse is not finite.
        self._width = self._width or max(largest / BINS, 1e-30)
        while self._largest > self._width * BINS:
            self._counts[: BINS // 2] = self._counts.reshape(-1, 2).sum(1)
            self._counts[BINS // 2 :] = 0
            self._width *= 2

    def _sum_channels(self, values: NDArray[Any]) -> None:
        last = np.moveaxis(values, self._axis, -1)
        self._sums = self._sums + last.reshape(-1, last.shape[-1]).sum(0, dtype=np.float64)
        self._places += last.size // last.shape[-1]


def measure_spreads(
    model: bytes, channel_axes: Mapping[str, int], pictures: Iterable[Pictures]
) -> dict[str, Spread]:
    """Count the values of some float32 tensors of a graph.

    They are made outputs, so memory is that of these activations for one batch.

    Args:
        model: an fp32 ONNX file whose values carry their types, as the exporter writes them.
        channel_axes: the tensors to count, with the axis of their channels.
        pictures: batches, each NCHW float32, RGB, 0..1.

    Returns:
        What each tensor is like, in the order asked for.

    Raises:
        SlsError: ONNX Runtime is not installed or cannot run the graph; a value is not finite.
    """
    proto = onnx.load_from_string(model)
    typed = {value.name: value for value in proto.graph.value_info}
    ends = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    proto.graph.output.extend(typed[name] for name in channel_axes if name not in ends)
    session = open_session(proto.SerializeToString())
    given = {value.name for value in proto.graph.input}
    names = [name for name in channel_axes if name not in given]
    counters = {name: SpreadCounter(axis) for name, axis in channel_axes.items()}
    for batch in pictures:
        values = dict(
            zip(names, run_session(session, names, {"input": batch}, "int8 ranges"), strict=True)
        )
        for name, counter in counters.items():
            counter.add(values.get(name, batch))
    return {name: counter.spread() for name, counter in counters.items()}
