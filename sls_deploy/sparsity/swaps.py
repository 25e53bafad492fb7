"""Search for a channel order by swaps, with escapes: tabu search over all pairs of slots.

A quad keeps the largest of its other three channels anyway. With the second largest of them s,
channel x in the remaining slot adds max(s, x): so what a slot would keep of every channel is one
sum, and a swap between two quads is priced by two of them, exactly. After a swap only the slots of
the changed quads are priced anew. The best swap is made even when it loses; for some moves its
channels may not return (F. Glover, "Tabu Search, Part I", ORSA Journal on Computing, 1989).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.quads import Cut, second_of_others, two_largest

_BLOCK = 2**16
"""Numbers that are priced in one step, so that they stay in the cache."""
_LEAST = 1e-7
"""Share of the kept sum below which a difference may be rounding."""


class _Prices:
    """The state of one cut: contents of its quads, and what every slot would gain."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        n = len(cut.cells)
        self.same: NDArray[np.bool_] = cut.cells[:, None] == cut.cells
        self._slots = [np.flatnonzero(cut.cells == cell) for cell in range(len(cut.beside))]
        self._contents = cut.beside.copy()
        self._contents[cut.cells, cut.positions] = cut.channels
        width = max(1, _BLOCK // n)
        edges = range(0, cut.channels.shape[1], width)
        self._blocks = [
            (slice(at, at + width), np.ascontiguousarray(cut.channels[:, at : at + width]))
            for at in edges
        ]
        self._order = np.arange(n)
        self.kept = np.zeros(len(cut.beside))
        """Importance that each quad keeps."""
        self.gains = np.zeros((n, n), np.float32)
        """What a slot would gain by the channel of another; 0 in one quad."""
        self._price(range(len(cut.beside)))

    def swap(self, i: int, j: int) -> None:
        """Exchange the channels of two slots."""
        cut, pair = self.cut, [i, j]
        self._order[pair] = self._order[[j, i]]
        self.gains[:, pair] = self.gains[:, [j, i]]
        self._contents[cut.cells[pair], cut.positions[pair]] = cut.channels[self._order[pair]]
        changed = {int(cut.cells[i]), int(cut.cells[j])}
        for link in cut.links:
            if link.slot in pair:
                contents = link.contents[self._order[link.slot]]
                self._contents[link.cell, link.position, link.rows] = contents
                changed.add(link.cell)
        self._price(sorted(changed))

    def _price(self, cells: Sequence[int]) -> None:
        cut = self.cut
        for cell in cells:
            quad = self._contents[cell]
            sums = np.add.reduceat(two_largest(*quad), cut.starts, dtype=np.float64)
            self.kept[cell] = sums[cut.counted[cell]].sum()
            seconds = second_of_others(*quad)
            slots = self._slots[cell]
            for slot in slots.tolist():
                self.gains[slot] = self._row(slot, seconds[cut.positions[slot]])
            self.gains[np.ix_(slots, slots)] = 0

    def _row(self, slot: int, second: NDArray[np.float32]) -> NDArray[np.float32]:
        row = np.zeros(len(self._order), np.float32)
        for rows, channels in self._blocks:
            row += np.maximum(channels, second[rows]).sum(axis=1)
        row = row[self._order]
        row -= row[slot].copy()
        return row


def search(cuts: Sequence[Cut], moves: int, seed: int, deadline: float | None) -> NDArray[np.int64]:
    """The best order that was met; the same for a seed unless `deadline` ends it.

    The gain of a swap is exact, except where a quad holds two occurrences of the stream: there
    each is priced as if the other stayed. What an order keeps is always exact, to float32.

    Args:
        cuts: from `quads.cuts`, of one stream.
        moves: swaps to make.
        seed: of the moves for which a swapped channel may not return.
        deadline: of `time.monotonic`, to stop at.

    Returns:
        Channel of each slot; [n].
    """
    states = [_Prices(cut) for cut in cuts]
    n = len(cuts[0].cells)
    generator = np.random.default_rng(seed)
    fixed = np.logical_and.reduce([state.same for state in states])
    near = np.logical_or.reduce([state.same for state in states])
    # Of the channel in each slot: the move before which it may not enter another.
    barred = np.zeros((n, n), np.int64)
    order = np.arange(n)
    best, best_order = _kept(states), order.copy()
    value = best
    for move in range(moves):
        if deadline is not None and time.monotonic() > deadline:
            break
        gains = states[0].gains.copy()
        for state in states[1:]:
            gains += state.gains
        gains += gains.T.copy()
        waiting = barred > move
        waiting &= waiting.T.copy()
        waiting &= gains <= best * (1 + _LEAST) - value
        gains[waiting | fixed] = -np.inf
        i, j = divmod(int(gains.argmax()), n)
        if gains[i, j] == -np.inf:
            continue
        order[[i, j]] = order[[j, i]]
        barred[[i, j]] = barred[[j, i]]
        for slot, left in ((i, j), (j, i)):
            barred[slot, near[left]] = move + generator.integers(n // QUAD, n // 2 + 2)
        for state in states:
            state.swap(i, j)
        value = _kept(states)
        if value > best * (1 + _LEAST):
            best, best_order = value, order.copy()
    return best_order


def _kept(states: Sequence[_Prices]) -> float:
    return float(sum(state.kept.sum() for state in states))
