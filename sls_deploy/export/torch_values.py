"""Every value that PyTorch computes while a network runs, and the modules that compute them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class TorchValue:
    """What one operation gave."""

    values: NDArray[np.float32]
    """A copy of it."""
    module: str
    """The innermost module that it ran in, such as 'body.0.first'; empty for the outermost."""


@dataclass(frozen=True)
class Layer:
    """A module with a weight."""

    module: str
    """Its name."""
    filters: NDArray[np.float32]
    """Its weight as [C_out, C_in / groups, *kernel]."""
    bias: NDArray[np.float32] | None
    """One number for each filter; None if it has none."""
    linear: bool
    """Whether channels are the last axis of what it gives, and not the second."""


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer."""

    layer: Layer
    """Which."""
    at: int
    """Index of what it gave among the values."""


@dataclass(frozen=True)
class TorchValues:
    """A run of a network."""

    values: Sequence[TorchValue]
    """What its operations gave, in their order; the restored pictures last."""
    calls: Sequence[LayerCall]
    """Uses of its layers, in their order."""


def torch_values(model: RestorationModel, pictures: Pictures) -> TorchValues:
    """Run a network and keep what every operation gives.

    Args:
        model: the network.
        pictures: NCHW float32, RGB, 0..1; memory is that of all activations.

    Raises:
        SlsError: the network failed on the pictures.
    """
    recorder = _Recorder()
    with recorder.watching(model.network), recorder:
        restored = TorchRunner(model).run(pictures)
    same = takewhile(
        lambda value: np.array_equal(value.values, restored), reversed(recorder.values)
    )
    module = next((value.module for value in same if value.module), "")
    return TorchValues([*recorder.values, TorchValue(restored, module)], recorder.calls)


def network_layers(network: nn.Module) -> list[Layer]:
    """The convolutions and linear layers of a network, in the order of its modules."""
    return [
        Layer(
            name,
            _filters(module),
            None if module.bias is None else _copy(module.bias),
            isinstance(module, nn.Linear),
        )
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))
    ]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, so that functions count like modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[TorchValue] = []
        self.calls: list[LayerCall] = []
        self._inside: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor) and item.is_floating_point():
                module = self._inside[-1] if self._inside else ""
                # A copy, since what follows may work in place.
                self.values.append(TorchValue(_copy(item), module))
        return result

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Know which module runs, and which value a layer gave."""
        layers = {layer.module: layer for layer in network_layers(network)}

        def enter(name: str) -> Any:
            return lambda _module, _given: self._inside.append(name)

        def leave(name: str) -> Any:
            def hook(_module: nn.Module, _given: Any, _output: Any) -> None:
                self._inside.pop()
                if name in layers:
                    self.calls.append(LayerCall(layers[name], len(self.values) - 1))

            return hook

        hooks = []
        for name, module in network.named_modules():
            if name:
                hooks.append(module.register_forward_pre_hook(enter(name), prepend=True))
                hooks.append(module.register_forward_hook(leave(name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _filters(module: nn.Module) -> NDArray[np.float32]:
    """A weight turned as `onnx_layers.weight_uses` turns it."""
    assert isinstance(module.weight, Tensor)  # noqa: S101 - a layer has one
    weight = _copy(module.weight)
    if not isinstance(module, _TRANSPOSED):
        return weight
    grouped = weight.reshape(module.groups, len(weight) // module.groups, *weight.shape[1:])
    turned = grouped.swapaxes(1, 2)
    return turned.reshape(module.groups * turned.shape[1], *turned.shape[2:])


def _copy(tensor: Tensor) -> NDArray[np.float32]:
    copied: NDArray[np.float32] = tensor.detach().float().cpu().numpy().copy()
    return copied
