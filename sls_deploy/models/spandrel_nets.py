"""Networks that the spandrel library recognises; it comes with the extra of that name.

Only what takes one RGB picture and gives one is taken over. Spandrel finds every size of a network
from its weights' shapes, so the shapes are what a description holds: the network is built again
from zeros of these shapes, and the checkpoint is not needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sls_deploy.errors import SlsError, reason
from sls_deploy.models.architecture import Architecture, Description, StateDict, choose_scale
from sls_deploy.models.restoration import COLOURS, pick_output

INSTALL = "pip install 'sls-deploy[spandrel]'"
_NOISE = 15 / 255
"""Standard deviation that spandrel tells networks which want to be told one."""
_BUILT_BY = re.compile(r"up\w+\.MetaUpsample|layers\.0\.blocks\.0\.attn\.attns\.0\.rpe_biases")
"""Tensors whose values, and not their shapes alone, say how a network is built (FDAT, DAT)."""
_SIDE = 32
"""Least side of the picture on which networks are compared, in pixels."""


Given = Literal["picture", "copy", "noise_map"]
"""What a network is given: the picture; a copy, since it writes into it; or the picture with the
level of the noise as a fourth channel."""


class Prepared(nn.Module):
    """A network that is not given the picture as it is."""

    def __init__(self, network: nn.Module, given: Given) -> None:
        super().__init__()
        self.network, self.given = network, given

    def forward(self, x: Tensor) -> Tensor:
        """NCHW RGB to the same."""
        if self.given == "copy":
            return self.network(x.clone())  # type: ignore[no-any-return]
        level = torch.full_like(x[:, :1], _NOISE)
        return self.network(torch.cat([x, level], dim=1))  # type: ignore[no-any-return]


class Merged(nn.Module):
    """A convolution of SPAN whose branches are computed into one, once and for all."""

    def __init__(self, branches: Any) -> None:
        super().__init__()
        branches.update_params()
        self.eval_conv: nn.Conv2d = branches.eval_conv.requires_grad_(True)
        self.has_relu: bool = branches.has_relu

    def forward(self, x: Tensor) -> Tensor:
        """NCHW to NCHW."""
        out = self.eval_conv(x)
        return functional.leaky_relu(out, 0.05) if self.has_relu else out


def is_installed() -> bool:
    """Whether spandrel is there, without importing it."""
    return importlib.util.find_spec("spandrel") is not None


def build(
    *,
    architecture: str,
    shapes: Mapping[str, list[int]],
    values: Mapping[str, list[Any]] | None = None,
    given: Given = "picture",
) -> nn.Module:
    """Make a network of spandrel's.

    Args:
        architecture: spandrel's name of it.
        shapes: shape of each of its weights.
        values: tensors that it is built by, in full.
        given: what it is given.

    Raises:
        SlsError: spandrel is not installed, or makes no such network.
    """
    known = _library().MAIN_REGISTRY.get(str(architecture))
    if known is None:
        raise SlsError(f"spandrel knows no network {architecture}", fix="Install a newer one.")
    try:
        state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
        for key, content in (values or {}).items():
            state[key] = torch.tensor(content).reshape(shapes[key])
        network = known.architecture.load(state).model
    except Exception as error:  # whatever the many architectures raise
        raise SlsError(f"spandrel cannot build {architecture} ({reason(error)})") from None
    return _adapted(network, given)


def recognise(state: StateDict, scale: int | None) -> Description | None:
    """Describe the network of a state dict that spandrel knows; see `Architecture.recognise`.

    Raises:
        SlsError: spandrel knows it, but it is not from one RGB picture to another, or it cannot
            be built again from its shapes.
    """
    found = _load(state) if is_installed() else None
    if found is None:
        return None
    name, size = found.architecture.id, found.size_requirements
    _check_kind(found)
    weights = found.model.state_dict()
    options = {
        "architecture": str(name),
        "shapes": {key: list(tensor.shape) for key, tensor in weights.items()},
    }
    values = {key: weights[key].flatten().tolist() for key in weights if _BUILT_BY.fullmatch(key)}
    if values:
        options["values"] = values
    side = -(-max(size.minimum, _SIDE) // size.multiple_of) * size.multiple_of
    how = _way_to_call(found, options, side)
    if how is None:
        raise SlsError(f"is a {name}, which works in a way of its own: it is not supported")
    options, output = how
    return Description(
        "spandrel",
        options,
        choose_scale([found.scale], scale),
        1.0,
        least_side=max(size.minimum, size.multiple_of),
        multiple=size.multiple_of,
        output=output,
    )


def convert(state: StateDict, description: Description) -> StateDict:
    """A checkpoint's weights under the keys of the network that `build` makes."""
    network = _load(state).model
    return _adapted(network, description.options.get("given", "picture")).state_dict()


def _way_to_call(
    found: Any, options: dict[str, Any], side: int
) -> tuple[dict[str, Any], int | None] | None:
    """Options and output with which a network built anew does what spandrel does with it."""
    picture = torch.rand(1, COLOURS, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = found(picture.clone())
    ways: tuple[tuple[Given, int | None], ...] = (
        ("picture", None), ("picture", 0), ("copy", None), ("noise_map", None),
    )  # fmt: skip
    for given, output in ways:
        chosen = options if given == "picture" else options | {"given": given}
        again = build(**chosen).eval()
        again.load_state_dict(_adapted(found.model, given).state_dict())
        x = picture.clone()
        with suppress(Exception), torch.inference_mode():  # it cannot be called in this way
            result = pick_output(again(x), output).clamp(0, 1)
            same = result.shape == expected.shape and torch.allclose(result, expected, atol=1e-4)
            if same and torch.equal(x, picture):
                return chosen, output
    return None


def _check_kind(found: Any) -> None:
    name, size = found.architecture.id, found.size_requirements
    fix = "Give a network that restores RGB pictures."
    if not isinstance(found, _library().ImageModelDescriptor):
        raise SlsError(f"is a {name}, which needs a mask beside the picture", fix=fix)
    channels = found.input_channels, found.output_channels
    if channels != (COLOURS, COLOURS):
        what = f"is a {name} from {channels[0]} channels to {channels[1]}, not from RGB to RGB"
        raise SlsError(what, fix=fix)
    if size.square:
        raise SlsError(f"is a {name}, which takes only square pictures", fix=fix)


def _adapted(network: nn.Module, given: Given) -> nn.Module:
    """A network without what is computed anew at every call, and with what it is given."""
    for name, module in list(network.named_modules()):
        if hasattr(module, "update_params") and hasattr(module, "eval_conv"):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, Merged(module))
    return network if given == "picture" else Prepared(network, given)


def _load(state: StateDict) -> Any:
    """Spandrel's description of the network, with the weights in it; None if it knows none."""
    library = _library()
    try:
        return library.MAIN_REGISTRY.load({key: value.clone() for key, value in state.items()})
    except library.UnsupportedModelError:
        return None
    except Exception as error:  # whatever the many architectures raise
        raise SlsError(f"spandrel cannot load it ({reason(error)})") from None


@lru_cache(maxsize=1)
def _library() -> Any:
    """Spandrel.

    It imports torchvision, which must be built for the PyTorch that is there, for two networks
    that are not taken over anyway. Where it cannot be imported, spandrel is given a stand-in.

    Raises:
        SlsError: it is not installed, or cannot be imported.
    """
    if not is_installed():
        raise SlsError("is a network of the library spandrel, which is missing", fix=INSTALL)
    try:
        with nullcontext() if _has_torchvision() else _without_torchvision():
            return importlib.import_module("spandrel")
    except Exception as error:  # it, or what it needs, does not fit what is installed
        raise SlsError(f"spandrel cannot be imported ({reason(error)})", fix=INSTALL) from None


def _has_torchvision() -> bool:
    try:
        importlib.import_module("torchvision.transforms.functional")
    except Exception:  # missing, or built for another PyTorch
        return False
    return True


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Modules of torchvision's names, for as long as spandrel is imported."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    before = {name: sys.modules.get(name) for name in names}
    modules = {name: ModuleType(name) for name in names}
    for needed in ("InterpolationMode", "normalize", "rotate"):
        setattr(modules[names[-1]], needed, None)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


ARCHITECTURE = Architecture(
    name="spandrel",
    paper="any network of the library spandrel",
    build=build,
    recognise=recognise,
    light=False,
    convert=convert,
)
