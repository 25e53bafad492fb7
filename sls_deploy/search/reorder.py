"""Networks with channels in another order, or with channels of zeros between them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sls_deploy.models.model import RestorationModel
from sls_deploy.models.restoration import COLOURS
from sls_deploy.search.channels import Axis, Numbers, Stream
from sls_deploy.search.trace import Trace
from sls_deploy.sizes import padded_side
from sls_deploy.sparsity.filters import Layout

_SIDE = 32
_NEAR = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference, as a share of the largest output, that counts as rounding."""


@torch.no_grad()
def reorder(
    trace: Trace, model: RestorationModel, orders: Iterable[tuple[Stream, Numbers]]
) -> RestorationModel:
    """A copy of a model in which channels changed places; it computes the same.

    Args:
        trace: the network's operations.
        model: the network; it is not changed.
        orders: streams, each with the channel that comes to each of its places.
    """
    moved = copy.deepcopy(model)
    tensors = {**dict(moved.network.named_parameters()), **dict(moved.network.named_buffers())}
    indices: dict[str, dict[Axis, Tensor]] = defaultdict(dict)
    for stream, order in orders:
        for place in stream.places:
            axis = place.axis
            if axis.end == "sum":
                continue
            own = indices[axis.name]
            if axis not in own:
                own[axis] = torch.arange(_length(tensors[axis.name], _layout(trace, axis), axis))
            own[axis][place.at.flatten()] = torch.from_numpy(place.at[order].flatten())
    for name, found in indices.items():
        layout = _layout(trace, next(iter(found)))
        tensors[name].copy_(_moved(tensors[name], layout, found))
    return moved


@torch.no_grad()
def computes_the_same(first: RestorationModel, second: RestorationModel) -> bool:
    """Whether two models give the same picture but for rounding, on random pixels.

    In float64 or, where the network's own code makes it float32, in that.
    """
    about = first.description
    side = padded_side(_SIDE, about.least_side, about.multiple)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(1, COLOURS * about.frames, side, side, generator=generator)
    for dtype, near in _NEAR.items():
        try:
            one, other = (
                copy.deepcopy(item).to(dtype).eval()(pictures.to(dtype)) for item in (first, second)
            )
        except Exception:  # noqa: S112 - whatever the network's code raises
            continue
        largest = max(1.0, float(one.abs().max()))
        return one.shape == other.shape and bool((one - other).abs().max() <= near * largest)
    return False


def _layout(trace: Trace, axis: Axis) -> Layout | None:
    """How a layer's weight lies; None for any other parameter."""
    layer = axis.name.removesuffix(".weight")
    return trace.layout(layer) if axis.name.endswith(".weight") and layer in trace.uses else None


def _length(tensor: Tensor, layout: Layout | None, axis: Axis) -> int:
    """Number of places along an axis of a parameter or buffer."""
    if layout is None:
        return max(tensor.shape)
    filters = layout.filters(tensor)
    if axis.end == "in":
        return filters.shape[1]
    return len(filters) // (layout.groups if axis.end == "out" else 1)


def _moved(tensor: Tensor, layout: Layout | None, indices: Mapping[Axis, Tensor]) -> Tensor:
    """A parameter or buffer with its channels in another order."""
    if layout is None:
        (index,) = indices.values()
        return tensor.flatten()[index].view(tensor.shape)
    filters = layout.filters(tensor).clone()
    for axis, index in indices.items():
        if axis.end == "own":
            filters = filters[index]
            continue
        rows = len(filters) // layout.groups
        own = slice(axis.group * rows, (axis.group + 1) * rows)
        filters[own] = filters[own][index] if axis.end == "out" else filters[own][:, index]
    return layout.weight(filters, tensor.shape)
