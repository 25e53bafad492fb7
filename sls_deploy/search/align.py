"""Channels filled up with zeros, so that Ampere's sparse tensor cores can take more layers.

They read input channels in fours. A layer with 50 of them runs on none; with two more, whose
filters and columns are zero, it does, and the picture stays the same. It is done before masks are
chosen: in a concatenation of four times 50 channels the quads lie otherwise than in four times 52.
Budgets are shares of the network as it is then; `alignment_facts` says how much larger that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.narrow import ZERO, widen
from sls_deploy.search.channel_flow import find_streams
from sls_deploy.search.channels import Axis, Place, Stream
from sls_deploy.search.reorder import computes_the_same
from sls_deploy.sparsity.legality import QUAD

if TYPE_CHECKING:
    from sls_deploy.models.model import RestorationModel
    from sls_deploy.search.layers import Layer
    from sls_deploy.search.trace import Trace

_OWN = ("weight", "bias", "running_mean", "running_var")


class Aligned(NamedTuple):
    """A network whose channels were filled up."""

    model: RestorationModel
    """It computes what the given one does; the one given where nothing was filled up."""
    rejected: int
    """Streams of channels that could not be filled up, though a layer would need it."""


def align(trace: Trace, model: RestorationModel, layers: Sequence[Layer], multiple: int) -> Aligned:
    """Fill up the channels that prunable layers read, where these are no multiple of four.

    A whole residual stream gets them, each segment of a concatenation its own, and blocks of r*r in
    front of a pixel shuffle. Streams stay as they are if anything but convolutions, batch
    normalisations and PReLUs holds a value for each of their channels, or if they are summed up,
    split or reshaped: code that names their number would break. The result is compared with the
    network that was given; streams with which it computes anything else stay too.

    Args:
        trace: the network's operations.
        model: the dense network; it is not changed.
        layers: its prunable layers.
        multiple: of which the channels of a stream are to be: 4, 8 or 16.
    """
    odd = {layer.parameter for layer in layers if layer.inputs % QUAD and layer.groups == 1}
    if not odd:
        return Aligned(model, 0)
    wanted = [
        stream
        for stream in find_streams(trace)
        if stream.size % multiple and any(place.axis.name in odd for place in stream.ends("in"))
    ]
    able = [stream for stream in wanted if all(_grows(model, place) for place in stream.places)]
    larger = _filled(model, able, multiple)
    if larger is None:
        able = [one for one in able if _filled(model, [one], multiple)]
        larger = _filled(model, able, multiple)
    if larger is None:
        return Aligned(model, len(wanted))
    return Aligned(larger, len(wanted) - len(able))


def _filled(
    model: RestorationModel, streams: Sequence[Stream], multiple: int
) -> RestorationModel | None:
    """The network with some streams filled up; None if it would compute anything else."""
    if not streams:
        return model
    try:
        larger = widen(model, _indices(model, streams, multiple))
    except SlsError:  # a module of another kind shares a parameter
        return None
    return larger if computes_the_same(model, larger) else None


def alignment_facts(before: Sequence[Layer], after: Sequence[Layer]) -> dict[str, Any] | None:
    """What filling up channels costs and gains; None if there was nothing to fill up.

    Args:
        before: all layers as they were.
        after: the same layers now.
    """
    pairs = list(zip(before, after, strict=True))
    if all(old.shape == new.shape for old, new in pairs):
        return None
    macs = [sum(layer.macs for layer in layers) for layers in (before, after)]
    return {
        "layers": {
            new.name: [old.inputs, new.inputs] for old, new in pairs if old.inputs != new.inputs
        },
        "more_macs": macs[1] / macs[0] - 1,
        "prunable": sum(new.prunable for _, new in pairs),
        "eligible_before": sum(old.prunable and not old.why_not_eligible for old, _ in pairs),
        "eligible_after": sum(new.prunable and not new.why_not_eligible for _, new in pairs),
    }


def _grows(model: RestorationModel, place: Place) -> bool:
    """Whether a module alone holds what lies along an axis, and the stream is one piece of it."""
    axis, positions = place.axis, np.sort(place.at.flatten())
    name, _, own = axis.name.rpartition(".")
    module = dict(model.network.named_modules()).get(name)
    plain = isinstance(module, nn.Conv2d) and module.groups == 1
    held = plain or isinstance(module, (nn.BatchNorm2d, nn.PReLU))
    return held and own in _OWN and bool((np.diff(positions) == 1).all())


def _indices(
    model: RestorationModel, streams: Sequence[Stream], multiple: int
) -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
    """For each module all channels at both ends, with new ones behind those of each stream."""
    ends: dict[Axis, list[tuple[int, int]]] = {}
    for stream in streams:
        for place in stream.places:
            added = -stream.size % multiple * place.at.shape[1]
            ends.setdefault(place.axis, []).append((int(place.at.max()), added))
    found: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]] = {}
    for axis, added in ends.items():
        name, _, own = axis.name.rpartition(".")
        if own != "weight":
            continue  # it goes with the weight of its module
        weight = model.network.get_parameter(axis.name)
        index = list(range(weight.shape[axis.end == "in"]))
        for last, count in sorted(added, reverse=True):
            index[last + 1 : last + 1] = [ZERO] * count
        outs, ins = found.get(name, (None, None))
        tensor = torch.tensor(index)
        found[name] = (outs, tensor) if axis.end == "in" else (tensor, ins)
    return found
