"""Modules rebuilt with fewer channels than their architecture gives them, or with more of zeros."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sls_deploy.errors import SlsError

if TYPE_CHECKING:
    from sls_deploy.models.model import RestorationModel

Kept = Mapping[str, tuple[Tensor | None, Tensor | None]]
"""Module name to the output and the input channels that it keeps: int64 indices, ascending; None
for all. A BatchNorm2d and a PReLU have output channels only."""
ZERO = -1
"""Index of a channel of zeros."""


def narrow(network: nn.Module, widths: Mapping[str, Sequence[int]]) -> None:
    """Make modules smaller or larger, in place, to put weights of that size into them.

    Args:
        network: the raw network, as large as its architecture.
        widths: see `Description.widths`; nothing in it is trusted.

    Raises:
        SlsError: no such module, one whose channels are no dimension of its own, or widths that are
            not whole numbers from 1 to sixteen times what the module has.
    """
    for name, wanted in widths.items():
        module = _module(network, name)
        sizes = _sizes(module)
        whole = isinstance(wanted, list) and all(type(width) is int for width in wanted)
        if (
            not whole
            or len(wanted) != len(sizes)
            or not all(1 <= w <= _widest(size) for w, size in zip(wanted, sizes, strict=True))
        ):
            what = f"{name} cannot have the width {wanted} where the architecture has {sizes}"
            raise SlsError(what, fix="Give whole numbers from 1 to 16 times those.")
        _keep(module, [_first(width, size) for width, size in zip(wanted, sizes, strict=True)])


def _widest(size: int) -> int:
    """Most channels that filling up to a multiple of 16 makes of these: of each single one."""
    return 16 * size


def _first(width: int, size: int) -> Tensor:
    """The first channels, with channels of zeros behind them where there are not enough."""
    index = torch.arange(width)
    return index.masked_fill_(index >= size, ZERO)


def widen(model: RestorationModel, wider: Kept) -> RestorationModel:
    """A copy of a model in which modules have channels of zeros more; the description says so.

    Args:
        model: the model; it is not changed.
        wider: every channel of the modules, with `ZERO` where a new one comes.

    Raises:
        SlsError: no such module, or one whose channels are no dimension of its own.
    """
    larger = copy.deepcopy(model)
    widths = dict(model.description.widths)
    for name, chosen in wider.items():
        module = _module(larger.network, name)
        _keep(module, chosen)
        widths[name] = _sizes(module)
    larger.description = replace(model.description, widths=widths)
    return larger


def select(model: RestorationModel, kept: Kept) -> RestorationModel:
    """A copy of a model in which modules keep only some channels; the description says so.

    Whether the modules still fit each other is up to the caller.

    Raises:
        SlsError: no such module, one that has no channels to drop, or indices that are not
            ascending channels of the module.
    """
    smaller = copy.deepcopy(model)
    widths = dict(model.description.widths)
    for name, chosen in kept.items():
        module = _module(smaller.network, name)
        before = _sizes(module)
        for index, size in zip(chosen, (*before, 0), strict=False):
            _check_index(name, index, size)
        _keep(module, chosen)
        if _sizes(module) != before:
            widths[name] = _sizes(module)
    smaller.description = replace(model.description, widths=widths)
    return smaller


def _module(network: nn.Module, name: str) -> nn.Module:
    """The module of a name, which can be narrowed."""
    module: nn.Module | None = dict(network.named_modules()).get(name)
    if module is None:
        raise SlsError(f"cannot narrow {name}: the network has no such module")
    plain = isinstance(module, nn.Conv2d) and module.groups == 1
    if not plain and not isinstance(module, (nn.BatchNorm2d, nn.PReLU)):
        groups = " with groups" if isinstance(module, nn.Conv2d) else ""
        raise SlsError(f"cannot narrow {name}: it is a {type(module).__name__}{groups}")
    return module


def _sizes(module: nn.Module) -> list[int]:
    """Output and input channels of a convolution, channels of another module."""
    if isinstance(module, nn.Conv2d):
        return [module.out_channels, module.in_channels]
    if isinstance(module, nn.BatchNorm2d):
        return [module.num_features]
    assert isinstance(module, nn.PReLU)  # noqa: S101 - `_module` lets nothing else through
    return [module.num_parameters]


def _check_index(name: str, index: Tensor | None, size: int) -> None:
    if index is None:
        return
    whole = index.dtype == torch.int64 and index.dim() == 1 and len(index) > 0
    if not whole or index[0] < 0 or index[-1] >= size or not bool((index.diff() > 0).all()):
        what = f"the channels that {name} keeps are not ascending numbers below {size}"
        raise SlsError(what)


def _keep(module: nn.Module, kept: Sequence[Tensor | None]) -> None:
    """Cut all tensors of a module: the first dimension is the outputs, the second the inputs."""

    def cut(tensor: Tensor) -> Tensor:
        for dimension, index in enumerate(kept[: tensor.dim()]):
            if index is not None:
                tensor = _pick(tensor, dimension, index.to(tensor.device))
        return tensor

    before = zip(_sizes(module), kept, strict=False)
    sizes = [size if index is None else len(index) for size, index in before]
    for key, parameter in list(module.named_parameters(recurse=False)):
        smaller = cut(parameter.detach())
        setattr(module, key, nn.Parameter(smaller, requires_grad=parameter.requires_grad))
    for key, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, key, cut(buffer))
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = sizes
    elif isinstance(module, nn.BatchNorm2d):
        (module.num_features,) = sizes
    elif isinstance(module, nn.PReLU):
        (module.num_parameters,) = sizes


def _pick(tensor: Tensor, dimension: int, index: Tensor) -> Tensor:
    """`index_select` with zeros where the index is `ZERO`."""
    shape = [-1 if at == dimension else 1 for at in range(tensor.dim())]
    picked = tensor.index_select(dimension, index.clamp_min(0))
    return picked.masked_fill((index == ZERO).view(shape), 0)
