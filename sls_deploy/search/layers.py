"""Which layers a network has, what each costs, and which of them may be pruned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.legality import QUAD
from sls_deploy.sparsity.pattern import Pattern

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Layer:
    """A layer with weights, in the order of first use."""

    name: str
    """Name of the module in the dense network."""
    kind: str
    """Class of the module, such as 'Conv2d'."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    groups: int
    """Convolution groups."""
    macs: float
    """Multiply-accumulates for one input pixel, over every use of the layer."""
    reason: str
    """Why the layer stays dense; empty if it may be pruned."""

    @property
    def prunable(self) -> bool:
        """Whether the search may prune the layer."""
        return not self.reason


def find_layers(network: nn.Module, pattern: Pattern, side: int) -> list[Layer]:
    """List the layers that a picture passes through, with their cost.

    The first and the last convolution stay dense (Oh et al., CVPR 2022).

    Args:
        network: takes NCHW pictures of three channels.
        pattern: pattern that is searched for; what it cannot use stays dense.
        side: height and width of the picture that costs are counted on, in pixels.

    Raises:
        SlsError: no layer can be pruned.
    """
    macs: dict[str, float] = {}
    modules = {name: item for name, item in network.named_modules() if isinstance(item, _COUNTED)}
    sizes = {name: module.weight.numel() for name, module in modules.items()}

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions = output
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            positions = inputs[0]
        channel = -1 if isinstance(module, nn.Linear) else 1
        uses = positions.numel() // positions.shape[channel]
        macs[name] = macs.get(name, 0) + sizes[name] * uses / side**2

    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: count(name, module, inputs, output)
        )
        for name, module in modules.items()
    ]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    order = [
        name
        for name in macs
        if isinstance(modules[name], nn.Conv2d) and modules[name].weight.requires_grad
    ]
    layers = [
        Layer(
            name=name,
            kind=type(module).__name__,
            shape=tuple(module.weight.shape),
            groups=getattr(module, "groups", 1),
            macs=macs[name],
            reason=_reason(module, pattern, first=name in order[:1], last=name in order[-1:]),
        )
        for name, module in ((name, modules[name]) for name in macs)
    ]
    if not any(layer.prunable for layer in layers):
        reasons = "; ".join(sorted({layer.reason for layer in layers})) or "no layers"
        raise SlsError(f"no layer can be pruned ({reasons})", "the network")
    return layers


def _reason(module: nn.Module, pattern: Pattern, *, first: bool, last: bool) -> str:
    if not isinstance(module, nn.Conv2d):
        return f"{type(module).__name__} is not pruned yet"
    if not module.weight.requires_grad:
        return "its weights are fixed, not learnt"
    if first or last:
        return f"the {'first' if first else 'last'} convolution stays dense"
    if module.weight.shape[1] < QUAD:
        return f"{module.weight.shape[1]} input channels are too few"
    if pattern.binary and module.groups > 1:
        return "TensorRT has no sparse kernels for group convolutions"
    return ""
