"""Channels inside blocks that only prunable convolutions see: they can be dropped for real."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sls_deploy.search.channel_flow import find_streams
from sls_deploy.search.channels import Stream
from sls_deploy.search.trace import KINDS, Trace
from sls_deploy.sparsity.pattern import Pattern

_HOLDERS = ("batch_norm", "prelu")
"""Operations that hold values for each channel and can lose some of them."""


@dataclass(frozen=True)
class Interior:
    """One set of channels that can be made smaller: all its modules keep the same ones."""

    producers: tuple[str, ...]
    """Convolutions whose output channels they are, in the order of first use."""
    consumers: tuple[str, ...]
    """Convolutions whose input channels they are; all that read them."""
    channels: int
    """How many there are."""
    between: tuple[str, ...]
    """Batch normalisations and PReLUs that hold a value for each channel."""


def find_interiors(trace: Trace, prunable: Collection[str]) -> list[Interior]:
    """Find the streams that only prunable convolutions write and read, each of them as a whole.

    So concatenations, splits, reshapes, sums over channels, parameters of a network's own and group
    convolutions, depthwise ones included, leave none; nor do channels that cannot change places.

    Args:
        trace: the network's operations.
        prunable: names of the layers whose channels may be dropped.

    Returns:
        Interiors in the order of their first producer; no two share channels.
    """
    convolutions = {
        name: list(trace.uses[name][0].args[1].meta["val"].shape[:2])  # type: ignore[union-attr]
        for name in prunable
        if name in trace.uses
        and KINDS[trace.uses[name][0].target] == "Conv2d"
        and trace.layout(name).groups == 1
    }
    holders = {
        (trace.parameter(value) or "").rpartition(".")[0]
        for node in trace.nodes
        if str(node.target).removeprefix("aten.").partition(".")[0] in _HOLDERS
        for value in node.args[1:5]
    }
    found = [_interior(stream, convolutions, holders) for stream in find_streams(trace)]
    order = {name: place for place, name in enumerate(trace.uses)}
    interiors = [item for item in found if item is not None]
    return sorted(interiors, key=lambda item: order[item.producers[0]])


def narrowed_interiors(
    trace: Trace, prunable: Collection[str], pattern: Pattern, step: int
) -> list[Interior]:
    """Interiors that a search may narrow: those of a single producer, under pattern 2:4.

    Those of a residual stream tie all blocks together; losing one costs every block.

    Args:
        trace: the network's operations.
        prunable: names of the layers whose channels may be dropped.
        pattern: what their units are.
        step: of which widths are multiples; 0 never narrows.
    """
    if not (pattern.binary and step):
        return []
    found = find_interiors(trace, prunable)
    return [item for item in found if item.channels > step and len(item.producers) == 1]


def kept_channels(
    chosen: Iterable[tuple[Interior, Tensor]],
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """What every module keeps, in the form that `sls_deploy.models.narrow.select` takes.

    Args:
        chosen: interiors, each with the channels that it keeps: int64 indices, ascending.
    """
    kept: dict[str, tuple[Tensor | None, Tensor | None]] = {}
    for interior, index in chosen:
        for name in (*interior.producers, *interior.between):
            kept[name] = (index, kept.get(name, (None, None))[1])
        for name in interior.consumers:
            kept[name] = (kept.get(name, (None, None))[0], index)
    return kept


def _interior(
    stream: Stream, convolutions: Mapping[str, list[int]], holders: Set[str]
) -> Interior | None:
    """A stream as an interior; None if anything else holds, sums or moves its channels.

    Args:
        stream: the channels.
        convolutions: output and input channels of those that may lose some.
        holders: modules that may lose values.
    """
    ends: dict[str, list[str]] = {"out": [], "in": [], "own": []}
    for place in stream.places:
        module = place.axis.name.rpartition(".")[0]
        whole = place.at.shape[1] == 1 and bool((place.at[:, 0] == np.arange(stream.size)).all())
        if place.axis.end == "sum" or not whole:
            return None
        ends[place.axis.end].append(module)
    written, read = ends["out"], ends["in"]
    held = dict.fromkeys(name for name in ends["own"] if name not in written)
    if not (
        written and read and convolutions.keys() >= {*written, *read} and held.keys() <= holders
    ):
        return None
    sizes = {convolutions[name][0] for name in written} | {convolutions[name][1] for name in read}
    if sizes != {stream.size}:
        return None  # part of a concatenation
    return Interior(tuple(written), tuple(read), stream.size, tuple(held))
