"""Where to clip a tensor that is quantised to int8: the range that its 255 levels cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from sls_deploy.calibration.histograms import BINS, Histogram

RangeMethod = Literal["min-max", "percentile", "entropy", "mse"]
"""How the range of an activation is chosen from its histogram."""

LEVELS = 127
"""Steps from zero to the end of the range, on either side."""
PERCENTILE = 99.99
"""Share of the values that a range by percentile covers, in per cent."""

_CANDIDATES = 128
"""Ranges that the mean squared error is computed for."""
_BUCKETS = LEVELS + 1
"""Magnitudes that entropy tells apart."""


def choose_range(histogram: Histogram, method: RangeMethod) -> float:
    """Choose the largest magnitude that int8 is to hold; what lies above is clipped to it.

    - 'min-max': the largest magnitude that occurs, so that nothing is clipped.
    - 'percentile': the magnitude that 99.99 % of all values do not exceed.
    - 'entropy': least Kullback-Leibler divergence of the histogram from what 128 levels leave of
      it (Migacz, 8-bit inference with TensorRT, GTC 2017).
    - 'mse': least mean squared error of clipping and rounding.

    Args:
        histogram: magnitudes on calibration pictures.
        method: one of the above.

    Returns:
        A magnitude above zero and at most the largest; 1 if all values are zero.
    """
    if not histogram.counts.any():
        return 1.0
    return min(_METHODS[method](histogram), histogram.largest)


def _largest(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    below = np.cumsum(histogram.counts) + histogram.zeros
    covered = int(np.searchsorted(below, PERCENTILE / 100 * below[-1]))
    return (covered + 1) * histogram.width


def _least_error(histogram: Histogram) -> float:
    """Tries equally spaced ranges on the centres of the bins."""
    used = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[used], histogram.counts[used]
    ranges = histogram.largest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES

    def error(bound: float) -> float:
        step = bound / LEVELS
        rounded = np.minimum(np.rint(centres / step), LEVELS) * step
        return float(counts @ (rounded - centres) ** 2)

    return float(min(ranges, key=error))


def _least_divergence(histogram: Histogram) -> float:
    """Tries every range that holds a multiple of 128 bins."""
    last = int(np.flatnonzero(histogram.counts)[-1])
    fewest = min(-(-(last + 1) // _BUCKETS), BINS // _BUCKETS)
    candidates = range(_BUCKETS, fewest * _BUCKETS + 1, _BUCKETS)
    return min(candidates, key=lambda bins: _divergence(histogram, bins)) * histogram.width


def _divergence(histogram: Histogram, bins: int) -> float:
    """Of the clipped histogram from its 128 means, each spread over the bins that are in use.

    A bin in use that no mean reaches, since only clipped values fall into it, gets half a value.
    """
    inner = histogram.counts[:bins].astype(np.float64)
    clipped = inner.copy()
    clipped[-1] += histogram.counts[bins:].sum()
    used = clipped > 0
    buckets = used.reshape(_BUCKETS, -1)
    means = inner.reshape(_BUCKETS, -1).sum(1) / np.maximum(buckets.sum(1), 1)
    spread = np.maximum((means[:, None] * buckets).ravel()[used], 0.5)
    p, q = clipped[used] / clipped.sum(), spread / spread.sum()
    return float(p @ np.log(p / q))


_METHODS: dict[RangeMethod, Callable[[Histogram], float]] = {
    "min-max": _largest,
    "percentile": _percentile,
    "entropy": _least_divergence,
    "mse": _least_error,
}
