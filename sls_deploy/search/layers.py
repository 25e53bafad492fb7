"""Which layers a network has, what each costs, and which of them may be pruned."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.models.restoration import COLOURS
from sls_deploy.search.trace import KINDS, Trace, dilation_of, layout_of, size_of, stride_of
from sls_deploy.sparsity.filters import Layout
from sls_deploy.sparsity.legality import QUAD, why_not_eligible
from sls_deploy.sparsity.pattern import Pattern

_MODULES = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_LISTED = 3


@dataclass(frozen=True)
class Layer:
    """A layer with weights, in the order of first use."""

    name: str
    """Name of the module in the dense network."""
    kind: str
    """Class of module that does what it does, such as 'Conv2d'."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    groups: int
    """Convolution groups."""
    macs: float
    """Multiply-accumulates for one input pixel, over every use of the layer."""
    reason: str
    """Why the layer stays dense; empty if it may be pruned."""
    uses: int = 1
    """How often it runs for one picture."""
    parameter: str = ""
    """Key of the weight in the state dict; empty if the weight is computed."""
    stride: tuple[int, ...] = ()
    """Steps of the kernel, one for each of its sizes; empty for steps of 1."""
    dilation: tuple[int, ...] = ()
    """Distances of the kernel's taps, one for each of its sizes; empty for distances of 1."""

    @property
    def prunable(self) -> bool:
        """Whether the search may prune the layer."""
        return not self.reason

    @property
    def layout(self) -> Layout:
        """How the weight lies."""
        return Layout(self.groups, self.kind.startswith("ConvTranspose"))

    @property
    def inputs(self) -> int:
        """Input channels of one convolution group."""
        return self.shape[0] // self.groups if self.layout.transposed else self.shape[1]

    @property
    def why_not_eligible(self) -> str:
        """Why Ampere's sparse tensor cores cannot take it, even with 2:4 weights; empty if so."""
        return why_not_eligible(
            self.inputs, self.groups, legal=True, transposed=self.layout.transposed
        )


@dataclass(frozen=True)
class Choice:
    """What the user says of single layers, by shell patterns of their names."""

    keep: tuple[str, ...] = ()
    """Layers that stay dense."""
    prune: tuple[str, ...] = ()
    """Layers that may be pruned though they would stay dense by default."""


def find_layers(
    model: RestorationModel,
    pattern: Pattern,
    graph: Trace | tuple[int, int],
    choice: Choice | None = None,
) -> list[Layer]:
    """List the layers that a picture passes through, with their cost.

    The first and the last convolution stay dense (Oh et al., CVPR 2022).

    Args:
        model: the network.
        pattern: pattern that is searched for; what it cannot use stays dense.
        graph: its operations on pictures of the size that costs are counted on; or, where it
            cannot be traced, height and width in pixels: layers are then found by hooks on
            modules, which see no weight that is used in any other way.
        choice: what the user says of single layers.

    Raises:
        SlsError: no layer can be pruned, or a pattern of the user's matches none.
    """
    layers = list_layers(model, pattern, graph, choice)
    if not any(layer.prunable for layer in layers):
        reasons = "; ".join(sorted({layer.reason for layer in layers})) or "no layers"
        raise SlsError(f"no layer can be pruned ({reasons})", "the network")
    return layers


def list_layers(
    model: RestorationModel,
    pattern: Pattern,
    graph: Trace | tuple[int, int],
    choice: Choice | None = None,
) -> list[Layer]:
    """`find_layers` also where nothing can be pruned."""
    if isinstance(graph, Trace):
        found, size = _traced(model, graph), tuple(graph.shape[2:])
    else:
        found, size = _hooked(model, graph), graph
    pixels = math.prod(size)
    return _judged(found, model, pattern, pixels, choice or Choice())


def _judged(
    found: Sequence[Layer],
    model: RestorationModel,
    pattern: Pattern,
    pixels: int,
    choice: Choice,
) -> list[Layer]:
    """Say of each layer whether it may be pruned, and count its cost for one pixel."""
    _check_globs(choice, found)
    learnt = {key for key, value in model.network.named_parameters() if value.requires_grad}
    ends = [
        layer.name
        for layer in found
        if layer.kind.startswith("Conv") and layer.parameter in learnt and layer.uses
    ]

    def reason(layer: Layer) -> str:
        kept, forced = (_matching(globs, layer.name) for globs in (choice.keep, choice.prune))
        by_default = "" if forced else _by_default(layer, ends, pattern)
        reasons = (
            "" if layer.uses else "the restored picture does not depend on it",
            "" if layer.parameter else "its weight is computed, or is no parameter called weight",
            "" if layer.parameter in learnt else "its weights are fixed, not learnt",
            f"kept dense by --keep {kept}" if kept else "",
            by_default if layer.name in (*ends[:1], *ends[-1:]) else "",
            f"{layer.inputs} input channels are too few" if layer.inputs < QUAD else "",
            by_default,
        )
        return next(filter(None, reasons), "")

    return [replace(layer, macs=layer.macs / pixels, reason=reason(layer)) for layer in found]


def _by_default(layer: Layer, ends: Sequence[str], pattern: Pattern) -> str:
    """Why a layer stays dense unless the user says otherwise."""
    if layer.name in ends[:1]:
        return "the first convolution stays dense"
    if layer.name in ends[-1:]:
        return "the last convolution stays dense"
    return _no_kernels(layer) if pattern.binary else ""


def _no_kernels(layer: Layer) -> str:
    """Why 2:4 cannot make a layer faster, whatever its channels."""
    if layer.layout.transposed:
        return "TensorRT has no sparse kernels for transposed convolutions"
    if layer.groups > 1:
        return "TensorRT has no sparse kernels for group convolutions"
    return ""


def _traced(model: RestorationModel, graph: Trace) -> list[Layer]:
    """Layers of a graph in the order of first use; multiply-accumulates for a whole picture."""
    found: dict[str, Layer] = {}
    for node in graph.weighted:
        weight: Any = node.args[1]
        name, parameter = graph.layer_of(node)
        _add(
            found,
            Layer(
                name=name,
                kind=KINDS[node.target],
                shape=tuple(int(size) for size in weight.meta["val"].shape),
                groups=layout_of(node).groups,
                macs=math.prod(size_of(node)) * weight.meta["val"].numel() / graph.shape[0],
                reason="",
                parameter=parameter,
                stride=stride_of(node),
                dilation=dilation_of(node),
            ),
        )
    return [*found.values(), *_unused(model, found)]


def _hooked(model: RestorationModel, size: tuple[int, int]) -> list[Layer]:
    """The same by hooks on modules."""
    found: dict[str, Layer] = {}

    def count(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions = inputs[0] if layer.layout.transposed else output
        channel = -1 if layer.kind == "Linear" else 1
        uses = positions.numel() / positions.shape[channel]
        _add(found, replace(layer, macs=math.prod(layer.shape) * uses))

    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, layer=layer: count(layer, inputs, output)
        )
        for layer, module in _modules(model)
    ]
    try:
        with torch.no_grad():
            channels, device = COLOURS * model.description.frames, next(model.parameters()).device
            model(torch.zeros(1, channels, *size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return [*found.values(), *_unused(model, found)]


def _add(found: dict[str, Layer], use: Layer) -> None:
    """Count one more use of a layer."""
    before = found.get(use.name)
    if before:
        use = replace(use, macs=before.macs + use.macs, uses=before.uses + 1)
    found[use.name] = use


def _modules(model: RestorationModel) -> list[tuple[Layer, nn.Module]]:
    """All modules that are layers, before anything ran."""
    return [
        (
            Layer(
                name=name,
                kind=next(kind.__name__ for kind in _MODULES if isinstance(module, kind)),
                shape=tuple(module.weight.shape),
                groups=getattr(module, "groups", 1),
                macs=0.0,
                reason="",
                parameter=f"{name}.weight",
                stride=tuple(getattr(module, "stride", ())),
                dilation=tuple(getattr(module, "dilation", ())),
            ),
            module,
        )
        for name, module in model.network.named_modules()
        if isinstance(module, _MODULES)
    ]


def _unused(model: RestorationModel, found: Collection[str]) -> list[Layer]:
    """Layers that the restored picture does not depend on."""
    return [replace(layer, uses=0) for layer, _ in _modules(model) if layer.name not in found]


def _matching(globs: Sequence[str], name: str) -> str:
    return next((glob for glob in globs if fnmatchcase(name, glob)), "")


def _check_globs(choice: Choice, layers: Sequence[Layer]) -> None:
    for flag, globs in (("--keep", choice.keep), ("--prune", choice.prune)):
        for glob in globs:
            if not any(fnmatchcase(layer.name, glob) for layer in layers):
                some = ", ".join(layer.name for layer in layers[:_LISTED])
                fix = f"Layers are called {some}, ...; `sls-deploy inspect` lists them."
                raise SlsError(f"no layer matches '{glob}'", flag, fix)
