"""Orders of a stream's channels with which 2:4 keeps more importance.

2:4 keeps the two most important of every four consecutive input channels. Which four stand together
is free: channels of a stream may be reordered if its producers and all its readers follow. Small
streams are solved exactly, by dynamic programming over sets of channels; larger ones by `swaps`.
(The problem, and a search by swaps: J. Pool and C. Yu, "Channel Permutations for N:M Sparsity",
NeurIPS 2021.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.quads import Cut, Reader, cuts, kept, two_largest, unconstrained
from sls_deploy.sparsity.swaps import search

__all__ = ["Found", "Reader", "find_permutation", "kept", "unconstrained"]

_LARGEST_EXACT = 16
"""Channels of a stream that are cut into quads exactly: 1820 quads, 12870 halves."""
_LARGEST_TRIED = 6
"""Channels of a stream beside others of which every order is tried."""
_WORK = 1_500_000_000
"""Numbers that the swaps of a search may price: under a second of one core."""
_MOVES_PER_CHANNEL = (4, 50)
"""Fewest and most swaps of a search; the fewest are a descent and as many again to escape."""
_CHUNK = 2**20
"""Numbers that are held at once while quads are valued."""


@dataclass(frozen=True)
class Found:
    """An order of a stream's channels."""

    order: NDArray[np.int64]
    """order[i] is the channel that stands where channel i was; [n]."""
    before: float
    """Importance that 2:4 keeps in all readers with the channels as they are."""
    after: float
    """The same in this order; at least `before`."""
    exact: bool
    """Whether no order keeps more, to rounding."""
    seconds: float
    """Time taken."""


def find_permutation(
    readers: Sequence[Reader], n: int, seconds: float | None = None, seed: int = 0
) -> Found:
    """An order of a stream with which 2:4 keeps as much importance as could be found.

    Never less than the order that is there. All rows of all readers count, none are sampled.

    Args:
        readers: all that read the stream.
        n: channels of the stream.
        seconds: time after which the best order so far is returned, so that the result may depend
            on the machine; None to let the number of moves alone decide.
        seed: of the search; small streams do not depend on it.

    Raises:
        SlsError: an importance is negative, NaN or Inf, or places do not fit the stream.
    """
    start = time.monotonic()
    deadline = None if seconds is None else start + seconds
    readers = [reader.checked(n) for reader in readers]
    order, exact = _order(readers, n, seed, deadline)
    before = sum(kept(reader.importance) for reader in readers)
    after = sum(kept(reader.permuted(order)) for reader in readers)
    if after <= before:
        order, after = np.arange(n), before
    return Found(order, before, after, exact, time.monotonic() - start)


def _order(
    readers: Sequence[Reader], n: int, seed: int, deadline: float | None
) -> tuple[NDArray[np.int64], bool]:
    """An order, and whether it is the best."""
    ways = [cut for cut in cuts(readers) if cut.channels.shape[1]] if n else []
    if all(len(cut.beside) == 1 for cut in ways):
        return np.arange(n), True
    if len(ways) == 1 and ways[0].whole and n <= _LARGEST_EXACT:
        return _partitioned(ways[0]), True
    if n <= _LARGEST_TRIED:
        return _tried(readers, n), True
    rows = sum(cut.channels.shape[1] for cut in ways)
    least, most = _MOVES_PER_CHANNEL
    moves = min(max(_WORK // (2 * QUAD * n * rows), least * n), most * n)
    return search(ways, moves, seed, deadline), False


def _partitioned(cut: Cut) -> NDArray[np.int64]:
    """The best order of a stream that alone fills the quads of its only cut.

    What a set of channels keeps at best is the largest, over the quads with its first channel, of
    what the quad keeps and what the rest keeps at best.
    """
    n = len(cut.cells)
    quads = np.array(list(combinations(range(n), QUAD)))
    value = np.full(1 << n, -np.inf)
    value[(1 << quads).sum(axis=1)] = _values(cut.channels, quads)
    best, first = value.copy(), np.arange(1 << n)
    for size in range(2 * QUAD, n + 1, QUAD):
        sets = np.array(list(combinations(range(n), size)))
        whole = (1 << sets).sum(axis=1)
        for others in combinations(range(1, size), QUAD - 1):
            quad = (1 << sets[:, [0, *others]]).sum(axis=1)
            total = value[quad] + best[whole - quad]
            better = total > best[whole]
            best[whole[better]], first[whole[better]] = total[better], quad[better]
    order = np.empty(n, np.int64)
    left = (1 << n) - 1
    for cell in range(n // QUAD):
        order[cut.cells == cell] = [c for c in range(n) if first[left] >> c & 1]
        left -= int(first[left])
    return order


def _values(channels: NDArray[np.float32], quads: NDArray[np.int64]) -> NDArray[np.float64]:
    """What every quad keeps of all rows together."""
    importance = channels.astype(np.float64)
    step = max(1, _CHUNK // (QUAD * importance.shape[1]))
    return np.concatenate(
        [
            two_largest(*importance[quads[at : at + step]].swapaxes(0, 1)).sum(axis=1)
            for at in range(0, len(quads), step)
        ]
    )


def _tried(readers: Sequence[Reader], n: int) -> NDArray[np.int64]:
    """The best of all orders."""
    readers = [reader.trimmed() for reader in readers]
    orders = [np.array(order) for order in permutations(range(n))]
    sums = [sum(kept(reader.permuted(order)) for reader in readers) for order in orders]
    return orders[int(np.argmax(sums))]
