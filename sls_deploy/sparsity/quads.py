"""How a stream of exchangeable channels lies in the quads of the convolutions that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.legality import QUAD


def _padded(importance: NDArray[Any]) -> NDArray[Any]:
    return np.pad(importance, ((0, 0), (0, -importance.shape[1] % QUAD)))


def two_largest(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> NDArray[Any]:
    """The sum of the two largest of four, element by element."""
    high, low, higher, lower = *_sorted(a, b), *_sorted(c, d)
    second = np.maximum(np.minimum(high, higher), np.maximum(low, lower))
    return np.asarray(np.maximum(high, higher) + second)


def second_of_others(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """For each of four, the second largest of the other three, element by element."""
    high, low, higher, lower = *_sorted(a, b), *_sorted(c, d)
    return (
        np.maximum(lower, np.minimum(higher, b)),
        np.maximum(lower, np.minimum(higher, a)),
        np.maximum(low, np.minimum(high, d)),
        np.maximum(low, np.minimum(high, c)),
    )


def _sorted(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.maximum(a, b), np.minimum(a, b)


def kept(importance: NDArray[Any]) -> float:
    """The importance that 2:4 keeps: the sum of the two largest of every quad of every row.

    Args:
        importance: at least 0, [rows, channels]; an incomplete last quad counts as padded with
            zeros.
    """
    quads = _padded(np.asarray(importance, np.float64)).reshape(-1, QUAD)
    return float(two_largest(*quads.T).sum())


def unconstrained(importance: NDArray[Any]) -> float:
    """The importance that no 2:4 choice exceeds: the sum of the largest half of every row.

    Args:
        importance: at least 0, [rows, channels]; padded with zeros as in `kept`.
    """
    rows = _padded(np.asarray(importance, np.float64))
    return float(np.sort(rows, axis=1)[:, rows.shape[1] // 2 :].sum())


@dataclass(frozen=True)
class Reader:
    """What one convolution group loses with every weight, and where a stream enters it."""

    importance: NDArray[Any]
    """At least 0 and comparable between readers; [rows, channels], rows = filters x taps."""
    places: NDArray[np.int64]
    """Input channels that hold the stream's channels; [n], or [n, k] for k occurrences of each."""

    def padded(self) -> NDArray[np.float64]:
        """The importance with zero columns up to a multiple of four."""
        padded: NDArray[np.float64] = _padded(np.asarray(self.importance, np.float64))
        return padded

    def occurrences(self) -> NDArray[np.int64]:
        """The places as [n, k]."""
        places = np.asarray(self.places, np.int64)
        return places.reshape(len(places), -1)

    def permuted(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """The padded importance once channel order[i] stands where channel i was."""
        before, places = self.padded(), self.occurrences()
        after = before.copy()
        after[:, places] = before[:, places[order]]
        return after

    def trimmed(self) -> Reader:
        """The same without the quads in which the stream has no channel."""
        places = self.occurrences()
        quads = np.unique(places // QUAD)
        columns = (QUAD * quads[:, None] + np.arange(QUAD)).ravel()
        return Reader(self.padded()[:, columns], np.searchsorted(columns, places))

    def checked(self, n: int) -> Reader:
        """Itself.

        Raises:
            SlsError: the importance or the places of a stream of `n` channels cannot be.
        """
        places = self.occurrences()
        if self.importance.ndim != 2 or not (
            np.isfinite(self.importance).all() and (self.importance >= 0).all()
        ):
            raise SlsError(
                "the importance is not a table of finite numbers of at least 0",
                "channel permutation",
                "Look for NaN or Inf in the network's weights.",
            )
        inside = (places >= 0) & (places < self.importance.shape[1])
        if len(places) != n or not inside.all() or np.unique(places).size != places.size:
            raise SlsError(
                f"a stream of {n} channels does not lie in {self.importance.shape[1]} "
                f"input channels at these {places.size} places",
                "channel permutation",
            )
        return self


@dataclass(frozen=True)
class Link:
    """A column beside the stream's that is itself another occurrence of the stream."""

    slot: int
    """Slot of the stream whose channel stands there."""
    cell: int
    """Quad of the cut."""
    position: int
    """Position in the quad."""
    rows: slice
    """Rows of the cut for which it holds."""
    contents: NDArray[np.float32]
    """What every channel of the stream would bring there; [n, rows]."""


@dataclass(frozen=True)
class Cut:
    """One way of cutting the slots of a stream into quads, and all rows that are read so."""

    cells: NDArray[np.int64]
    """Quad of every slot; [n]."""
    positions: NDArray[np.int64]
    """Position of every slot in its quad; [n]."""
    channels: NDArray[np.float32]
    """Importance of every channel of the stream; [n, rows]."""
    beside: NDArray[np.float32]
    """What else stands in the quads, 0 at the stream's own slots; [quads, 4, rows]."""
    starts: NDArray[np.int64]
    """First row of every segment: the rows of one reader and occurrence."""
    counted: NDArray[np.bool_]
    """Whether a segment's part of a quad is counted; [quads, segments]. A quad with two
    occurrences of the stream lies in two segments and is counted in one."""
    links: tuple[Link, ...] = field(default=())
    """Columns in `beside` that move with the stream."""

    @property
    def whole(self) -> bool:
        """Whether the stream alone fills the quads."""
        return len(self.cells) == QUAD * len(self.beside)


@dataclass(frozen=True)
class _Segment:
    reader: int
    occurrence: int
    quads: NDArray[np.int64]
    """Quad of the reader, for each quad of the cut."""


def cuts(readers: Sequence[Reader]) -> list[Cut]:
    """The different cuts of a stream.

    Importances are divided by the largest of all readers, so that float32 holds them.
    """
    tables = [reader.padded() for reader in readers]
    largest = max((float(table.max(initial=0.0)) for table in tables), default=0.0) or 1.0
    tables = [table / largest for table in tables]
    groups: dict[bytes, tuple[NDArray[np.int64], list[_Segment]]] = {}
    for r, reader in enumerate(readers):
        for k, places in enumerate(reader.occurrences().T):
            quads, first, inverse = np.unique(
                places // QUAD, return_index=True, return_inverse=True
            )
            # Quads are numbered by their first slot: the same partition gets the same numbers.
            by_slot = np.argsort(first)
            cells = np.argsort(by_slot)[inverse]
            groups.setdefault(cells.tobytes(), (cells, []))[1].append(
                _Segment(r, k, quads[by_slot])
            )
    return [_cut(cells, segments, readers, tables) for cells, segments in groups.values()]


def _cut(
    cells: NDArray[np.int64],
    segments: list[_Segment],
    readers: Sequence[Reader],
    tables: list[NDArray[np.float64]],
) -> Cut:
    n, quads = len(cells), int(cells.max()) + 1
    taken = np.zeros(quads, np.int64)
    positions = np.empty(n, np.int64)
    for slot, cell in enumerate(cells):
        positions[slot] = taken[cell]
        taken[cell] += 1
    sizes = [len(tables[segment.reader]) for segment in segments]
    starts = np.cumsum([0, *sizes])
    channels = np.empty((n, starts[-1]), np.float32)
    beside = np.zeros((quads, QUAD, starts[-1]), np.float32)
    counted = np.ones((quads, len(segments)), np.bool_)
    links = []
    for s, segment in enumerate(segments):
        table, places = tables[segment.reader], readers[segment.reader].occurrences()
        rows = slice(int(starts[s]), int(starts[s + 1]))
        own = places[:, segment.occurrence]
        channels[:, rows] = table[:, own].T
        holder = {int(p): divmod(i, places.shape[1]) for i, p in enumerate(places.ravel())}
        for cell, quad in enumerate(segment.quads):
            others = np.setdiff1d(np.arange(QUAD * quad, QUAD * (quad + 1)), own)
            for position, place in enumerate(others, taken[cell]):
                beside[cell, position, rows] = table[:, place]
                if int(place) in holder:
                    slot, occurrence = holder[int(place)]
                    counted[cell, s] &= segment.occurrence < occurrence
                    contents = table[:, places[:, occurrence]].T.astype(np.float32)
                    links.append(Link(slot, cell, position, rows, contents))
    return Cut(cells, positions, channels, beside, starts[:-1], counted, tuple(links))
