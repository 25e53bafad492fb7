from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.permutation import Reader, find_permutation, kept, unconstrained
from sls_deploy.sparsity.quads import cuts
from sls_deploy.sparsity.swaps import _Prices, search

Table = NDArray[np.float64]


def table(rows: int, channels: int, seed: int) -> Table:
    """Squares of normal numbers, with channels of different energy."""
    generator = np.random.default_rng(seed)
    energy = np.exp(generator.normal(size=channels))
    return np.asarray(generator.normal(size=(rows, channels)) ** 2 * energy)


def moved(reader: Reader, order: NDArray[np.int64]) -> Table:
    """What the reader sees in the new order, channel by channel."""
    places = reader.places.reshape(len(order), -1)
    result = np.array(reader.importance)
    for i, channel in enumerate(order):
        for k in range(places.shape[1]):
            result[:, places[i, k]] = reader.importance[:, places[channel, k]]
    return result


def kept_by_hand(readers: Sequence[Reader], order: Sequence[int]) -> float:
    total = 0.0
    for reader in readers:
        for row in moved(reader, np.array(order)).tolist():
            for start in range(0, len(row), 4):
                total += sum(sorted(row[start : start + 4])[-2:])
    return total


def best_by_hand(readers: Sequence[Reader], n: int) -> float:
    return max(kept_by_hand(readers, order) for order in permutations(range(n)))


def halves() -> list[list[int]]:
    """Orders of eight channels, one for each partition into two quads."""
    quads = [[0, *others] for others in combinations(range(1, 8), 3)]
    return [[*quad, *sorted(set(range(8)) - set(quad))] for quad in quads]


def test_two_of_every_four_are_kept_and_the_last_quad_is_padded() -> None:
    row = np.array([[4.0, 1, 2, 3, 9, 8]])
    assert kept(row) == 4 + 3 + 9 + 8
    assert kept(np.vstack([row, row])) == 2 * kept(row)
    assert unconstrained(row) == 4 + 3 + 9 + 8
    assert unconstrained(np.array([[1.0, 2, 3, 4, 9, 0, 8, 0]])) == 9 + 8 + 4 + 3


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.lists(st.integers(0, 9), min_size=8, max_size=8), min_size=1, max_size=5))
def test_eight_channels_are_solved_exactly(values: list[list[int]]) -> None:
    importance = np.array(values, np.float64)
    found = find_permutation([Reader(importance, np.arange(8))], 8)
    assert found.exact
    assert found.after == max(kept(importance[:, order]) for order in halves())
    assert found.after == kept(moved(Reader(importance, np.arange(8)), found.order))


def test_readers_that_see_the_stream_at_other_quads_are_solved_together() -> None:
    """Two readers; in the second the quads stand in another place and twice."""
    first = Reader(table(5, 8, 0), np.arange(8))
    second = Reader(table(3, 24, 1), np.stack([np.arange(16, 24), np.arange(4, 12)], 1))
    found = find_permutation([first, second], 8)
    assert found.exact
    assert found.after == pytest.approx(
        max(kept_by_hand([first, second], order) for order in halves())
    )


@pytest.mark.parametrize("n", [12, 16])
def test_quads_that_fit_are_found_among_sixteen_channels(n: int) -> None:
    importance, hidden = hidden_quads(n, 0)
    found = find_permutation([Reader(importance, np.arange(n))], n)
    assert found.exact
    assert found.after == pytest.approx(unconstrained(importance))
    assert {frozenset(quad) for quad in found.order.reshape(-1, 4).tolist()} == hidden


def hidden_quads(n: int, seed: int) -> tuple[Table, set[frozenset[int]]]:
    """A table in which exactly one partition into quads loses nothing, and its quads.

    In every row two channels of each hidden quad are 1, any two of the four, the others 0.
    """
    generator = np.random.default_rng(seed)
    quads = generator.permutation(n).reshape(-1, 4)
    importance = np.zeros((200, n))
    for row in importance:
        for quad in quads:
            row[generator.permutation(quad)[:2]] = 1
    return importance, {frozenset(quad) for quad in quads.tolist()}


def test_a_large_stream_regains_the_whole_gap_where_that_can_be() -> None:
    importance, _ = hidden_quads(20, 1)
    found = find_permutation([Reader(importance, np.arange(20))], 20)
    assert found.before < 0.9 * unconstrained(importance)
    assert found.after == unconstrained(importance)
    assert not found.exact


def test_search_alone_finds_what_the_exact_way_finds() -> None:
    reader = Reader(table(30, 16, 2), np.arange(16))
    order = search(cuts([reader]), 400, 0, None)
    assert kept(reader.permuted(order)) == pytest.approx(find_permutation([reader], 16).after)


@pytest.mark.parametrize("seed", range(2))
def test_few_channels_beside_others_are_solved_exactly(seed: int) -> None:
    readers = [
        Reader(table(4, 11, seed), np.array([2, 3, 4, 5, 6])),
        Reader(table(3, 9, seed + 9), np.array([8, 1, 0, 4, 5])),
    ]
    found = find_permutation(readers, 5)
    assert found.exact
    assert found.after == pytest.approx(best_by_hand(readers, 5))


@pytest.mark.parametrize("seed", range(2))
def test_search_beside_others_comes_to_the_best(seed: int) -> None:
    """Seven channels across three quads with foreign ones: all 5040 orders are tried."""
    reader = Reader(table(6, 12, seed), np.arange(3, 10))
    order = search(cuts([reader]), 300, 0, None)
    middle = [moved(reader, np.array(o)) for o in permutations(range(7))]
    assert kept(moved(reader, order)) == pytest.approx(max(map(kept, middle)))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 999))
def test_an_order_is_a_permutation_and_never_worse(data: st.DataObject, seed: int) -> None:
    n = data.draw(st.integers(1, 14), "channels of the stream")
    readers = []
    for r in range(data.draw(st.integers(1, 3), "readers")):
        occurrences = data.draw(st.integers(1, 2), "occurrences")
        width = n * occurrences + data.draw(st.integers(0, 5), "other channels")
        generator = np.random.default_rng(seed + r)
        start = data.draw(st.integers(0, width - n * occurrences), "first place")
        places = start + np.arange(n * occurrences).reshape(occurrences, n).T
        if data.draw(st.booleans(), "scattered"):
            places = generator.permutation(width)[places]
        readers.append(Reader(table(4, width, seed + r), places))
    found = find_permutation(readers, n, seed=seed)
    assert sorted(found.order.tolist()) == list(range(n))
    assert found.before == pytest.approx(kept_by_hand(readers, range(n)))
    assert found.after == pytest.approx(kept_by_hand(readers, found.order.tolist()))
    assert found.after >= found.before


def test_differences_below_float32_never_make_it_worse() -> None:
    for seed in range(50):
        importance = 1 + 1e-7 * np.random.default_rng(seed).random((3, 8))
        found = find_permutation([Reader(importance, np.arange(8))], 8)
        assert found.after >= found.before


def test_an_order_that_is_the_best_already_is_left() -> None:
    importance, hidden = hidden_quads(20, 1)
    best = [channel for quad in sorted(map(sorted, hidden)) for channel in quad]
    found = find_permutation([Reader(importance[:, best], np.arange(20))], 20)
    assert found.order.tolist() == list(range(20))
    assert found.after == found.before


def test_segments_at_four_offsets_of_one_reader_regain_a_part() -> None:
    """One stream of 25 channels, four times in 100: only the first begins at a quad."""
    reader = Reader(table(60, 100, 3), np.arange(100).reshape(4, 25).T)
    assert len(cuts([reader])) == 4
    found = find_permutation([reader], 25)
    assert found.after == pytest.approx(kept(moved(reader, found.order)))
    gap = unconstrained(reader.importance) - found.before
    assert (found.after - found.before) / gap > 0.15


@pytest.mark.parametrize("offset", [0, 25, 50, 75])
def test_a_segment_is_ordered_beside_fixed_channels(offset: int) -> None:
    """The channels of the hidden quads lie at the segment's whole quads: all can be regained."""
    importance = np.zeros((200, 100))
    first = -(-offset // 4) * 4
    hidden, _ = hidden_quads(20, offset)
    importance[:, first : first + 20] = hidden
    places = np.arange(offset, offset + 25)
    found = find_permutation([Reader(importance, places)], 25)
    assert found.before < 0.9 * importance.sum()
    assert found.after == importance.sum()


def after_swaps(reader: Reader, n: int) -> tuple[list[_Prices], NDArray[np.int64], float]:
    """The prices after five swaps, the order, and the scale of the prices."""
    states = [_Prices(cut) for cut in cuts([reader])]
    order = np.arange(n)
    for i, j in np.random.default_rng(n).permutation(n)[: n // 2 * 2].reshape(-1, 2)[:5].tolist():
        order[[i, j]] = order[[j, i]]
        for state in states:
            state.swap(i, j)
    return states, order, float(reader.importance.max())


@pytest.mark.parametrize("offset", [0, 3])
def test_every_swap_is_priced_as_what_it_changes(offset: int) -> None:
    reader = Reader(table(9, 30, offset), np.arange(24).reshape(2, 12).T + offset)
    states, order, scale = after_swaps(reader, 12)
    now = kept(moved(reader, order))
    gains = scale * sum(state.gains + state.gains.T for state in states)
    for i, j in permutations(range(12), 2):
        after = order.copy()
        after[[i, j]] = after[[j, i]]
        # At offset 3 one quad holds slots 9, 10, 11 and, again, slot 0: see `search`.
        if offset == 0 or 0 not in {i, j} or max(i, j) < 9:
            assert gains[i, j] == pytest.approx(kept(moved(reader, after)) - now, abs=1e-4)


@pytest.mark.parametrize("n", [6, 9, 12, 21])
def test_what_is_kept_is_followed_through_swaps(n: int) -> None:
    reader = Reader(table(20, 2 * n + 1, n), np.arange(2 * n).reshape(2, n).T + 1)
    states, order, scale = after_swaps(reader, n)
    total = sum(state.kept.sum() for state in states)
    quads = reader.trimmed().permuted(order)
    assert scale * total == pytest.approx(kept(quads), rel=1e-5)
    assert kept(quads) == pytest.approx(kept(moved(reader, order)))


@pytest.mark.parametrize("n", [6, 9, 21])
def test_what_is_kept_is_exact_where_a_quad_holds_two_occurrences(n: int) -> None:
    """The search follows the true sum through such quads, although it prices them roughly."""
    reader = Reader(table(20, 2 * n + 1, n), np.arange(2 * n).reshape(2, n).T)
    ways = cuts([reader])
    assert any(cut.links for cut in ways)
    order = search(ways, 200, 0, None)
    assert kept(moved(reader, order)) > kept(reader.importance)
    if n == 6:
        assert kept(moved(reader, order)) >= 0.99 * best_by_hand([reader], n)


def test_readers_with_the_same_quads_are_one_cut() -> None:
    readers = [
        Reader(table(3, 52, 0), np.arange(50)),
        Reader(table(2, 100, 1), np.arange(40, 90)),
        Reader(table(2, 100, 1), np.arange(50, 100)),
    ]
    assert [cut.channels.shape for cut in cuts(readers)] == [(50, 5), (50, 2)]


def test_the_same_seed_gives_the_same_order() -> None:
    reader = Reader(table(20, 20, 5), np.arange(20))
    first, again = (find_permutation([reader], 20, seed=4) for _ in range(2))
    assert first.order.tolist() == again.order.tolist()
    assert first.after == again.after


def test_no_time_leaves_the_order() -> None:
    found = find_permutation([Reader(table(50, 48, 5), np.arange(48))], 48, seconds=0.0)
    assert found.order.tolist() == list(range(48))
    assert found.after == found.before > 0


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [4, 5], [7]])
def test_channels_in_one_quad_have_nothing_to_gain(places: list[int]) -> None:
    found = find_permutation([Reader(table(5, 8, 0), np.array(places))], len(places))
    assert found.exact
    assert found.order.tolist() == list(range(len(places)))


def test_a_stream_that_nothing_reads_is_left() -> None:
    assert find_permutation([], 9).order.tolist() == list(range(9))


def test_tiny_importances_count_as_large_ones_do() -> None:
    importance, n = table(20, 20, 6), 20
    one = find_permutation([Reader(importance, np.arange(n))], n)
    tiny = find_permutation([Reader(2.0**-160 * importance, np.arange(n))], n)
    assert one.order.tolist() == tiny.order.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_importances_that_cannot_be_are_refused(value: float) -> None:
    importance = table(3, 8, 0)
    importance[1, 2] = value
    with pytest.raises(SlsError, match="finite numbers of at least 0"):
        find_permutation([Reader(importance, np.arange(8))], 8)


@pytest.mark.parametrize("places", [[0, 1, 2], [0, 1, 2, 8], [0, 1, 2, -1], [0, 1, 2, 2]])
def test_places_that_cannot_be_are_refused(places: list[int]) -> None:
    with pytest.raises(SlsError, match="a stream of 4 channels does not lie in 8 input channels"):
        find_permutation([Reader(table(3, 8, 0), np.array(places))], 4)
