"""A network with its description, and its way from and to a file of weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models import own
from sls_deploy.models.architecture import Architecture, Description, StateDict
from sls_deploy.models.fold import fold, is_reparametrised
from sls_deploy.models.narrow import narrow
from sls_deploy.models.registry import REGISTRY
from sls_deploy.models.restoration import COLOURS, RestorationModel
from sls_deploy.models.weights_file import read_weights, write_weights
from sls_deploy.sizes import padded_side

__all__ = [
    "RestorationModel",
    "build_model",
    "fresh_model",
    "load_like",
    "load_model",
    "save_weights",
]

_LISTED = 3
_PLAIN = (bool, int, float)
"""Options that a file of weights may give to a factory of the user's by itself."""
_SIDE = 32
"""Least side of the picture that a narrowed network is run on, in pixels."""


def build_model(
    description: Description, architecture: Architecture | None = None
) -> RestorationModel:
    """Make a network with fresh weights.

    Args:
        description: what it is.
        architecture: how it is built; that of the registry if left out.

    Raises:
        SlsError: no such network, options that it does not have, or widths that it cannot have.
    """
    architecture = architecture or REGISTRY.get(description.name)
    try:
        network = architecture.build(**description.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SlsError(f"cannot build {description.name} ({error})") from None
    narrow(network, description.widths)
    return RestorationModel(network, description)


def load_model(weights: Path, wanted: ModelConfig | None = None) -> RestorationModel:
    """Load a network, in float32 on the CPU and in evaluation mode.

    Code of the user's own is run only where `wanted` names it; nothing in the file ever is.
    Weight normalisation is folded into plain weights.

    Args:
        weights: a .safetensors, .pth, .pt or .ckpt file.
        wanted: the network that it must be, the scale wanted where the weights hold several, and
            what is to be known of a network of the user's own.

    Raises:
        SlsError: the file cannot be read as weights; they are of no known network, of another than
            is wanted, or of another scale; they do not fit the network, or hold NaN or infinity.
    """
    wanted = wanted or ModelConfig()
    named = None if wanted.name == "auto" else find_architecture(wanted)
    mine = named if own.is_own(wanted.name) else None
    state, description = read_weights(weights)
    recognised = description is None
    try:
        if description is None:
            description = (mine or REGISTRY).recognise(state, wanted.scale)
        assert description is not None  # noqa: S101 - both raise where they do not know
        _check_wanted(description, wanted)
        if own.is_own(description.name):
            description = _checked_own(description, wanted)
        architecture = mine or REGISTRY.get(description.name)
        if recognised and architecture.convert:
            state = dict(architecture.convert(state, description))
        # Without memory behind it the network is made at once, and its initial weights never are.
        with torch.device("meta") if architecture.light else nullcontext():
            model = build_model(description, architecture).eval()
            if is_reparametrised(model.network) and not _is_raw(state, model.network):
                fold(model.network)
            _check_widths(model)
        fitting = fit_state(_unwrapped(state, model.network), model, architecture.droppable)
    except SlsError as error:
        raise SlsError(error.what, error.where or str(weights), error.fix) from None
    _place(model.network, fitting)
    return model.eval()


def fresh_model(wanted: ModelConfig) -> RestorationModel:
    """Make a network with fresh weights; what its options leave open is recognised from them.

    Raises:
        SlsError: no such network, or options that it does not have.
    """
    architecture = find_architecture(wanted)
    options = dict(wanted.options)
    if own.is_own(wanted.name):
        found = architecture.recognise({}, None)
        assert found is not None  # noqa: S101 - it raises where it does not know
    else:
        asked = Description(wanted.name, options, scale=1, input_range=1.0)
        found = REGISTRY.recognise(build_model(asked).network.state_dict())
        options = {**found.options, **options}
        input_range = float(options.get("input_range", found.input_range))
        found = replace(found, options=options, input_range=input_range)
    model = build_model(found, architecture)
    fold(model.network)
    return model


def load_like(weights: Path, model: RestorationModel) -> RestorationModel:
    """Load a pruned form of a network that is there: the same modules, some of them narrower.

    Raises:
        SlsError: the file cannot be read, or holds another network.
    """
    state, description = read_weights(weights)
    if description is None or description.name != model.description.name:
        raise SlsError(f"does not hold {model.description.name}", str(weights))
    smaller = copy.deepcopy(model)
    smaller.description = description
    try:
        narrow(smaller.network, description.widths)
        _place(smaller.network, fit_state(state, smaller))
    except SlsError as error:
        raise SlsError(error.what, str(weights), error.fix) from None
    return smaller.eval()


def find_architecture(wanted: ModelConfig) -> Architecture:
    """How the network that is named is built.

    Raises:
        SlsError: no network has that name, or the user's own cannot be loaded.
    """
    if own.is_own(wanted.name):
        return own.load_architecture(wanted)
    return REGISTRY.get(wanted.name)


def save_weights(path: Path, model: RestorationModel, state: StateDict | None = None) -> Path:
    """Write weights as safetensors with the description, atomically.

    Args:
        path: the file to write.
        model: the model whose description, and weights unless `state` is given, are written.
        state: other weights for the same raw network.

    Raises:
        SlsError: `state` does not fit the network, or the file cannot be written.
    """
    chosen = model.network.state_dict() if state is None else fit_state(state, model)
    return write_weights(path, chosen, model.description)


def fit_state(
    state: StateDict, model: RestorationModel, droppable: re.Pattern[str] | None = None
) -> dict[str, Tensor]:
    """The tensors of `state` that the raw network takes.

    Args:
        state: weights by parameter name.
        model: the model whose raw network is to take them.
        droppable: keys that are left out, such as those of other scales.

    Raises:
        SlsError: keys are missing, unexpected or of another shape; names the first few.
    """
    wanted = model.network.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [
        key for key in state if key not in wanted and not (droppable and droppable.fullmatch(key))
    ]
    reshaped = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]

    def shapes(key: str) -> str:
        return f"{key}: {_shape(state[key])}, needed {_shape(wanted[key])}"

    problems = [
        _listed("missing", missing, str),
        _listed("unexpected", unexpected, str),
        _listed("of another shape", reshaped, shapes),
    ]
    if any(problems):
        what = "; ".join(filter(None, problems))
        fix = "Give the weights of that network."
        raise SlsError(f"does not fit {model.description.name}: {what}", fix=fix)
    return {key: state[key] for key in wanted}


def _place(network: nn.Module, state: StateDict) -> None:
    """Put weights into a network, and fold those that others are computed from."""
    plain = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in state.items()
    }
    network.load_state_dict(plain, assign=True)
    fold(network)


def _unwrapped(state: StateDict, network: nn.Module) -> StateDict:
    """The state without what wrappers put before every key, such as Lightning's 'model.'."""
    known, inner = network.state_dict().keys(), state
    while not inner.keys() & known:
        heads = {key.partition(".")[0] for key in inner}
        if len(heads) != 1 or heads & inner.keys():
            return state
        inner = {key.partition(".")[2]: tensor for key, tensor in inner.items()}
    return inner


def _is_raw(state: StateDict, network: nn.Module) -> bool:
    """Whether weights are of a network as it was made, not as `fold` leaves it."""
    return network.state_dict().keys() <= _unwrapped(state, network).keys()


def _check_wanted(description: Description, wanted: ModelConfig) -> None:
    name, scale = wanted.name, wanted.scale
    if own.is_own(name):
        name = own.short_name(name)
    if own.is_own(description.name) and name != description.name:
        fix = f"Name it: --model path/to/{description.name}."
        raise SlsError(f"is of a network of your own, {description.name}", fix=fix)
    if name not in ("auto", description.name):
        fix = f"Ask for {description.name}, or give the weights of {name}."
        raise SlsError(f"holds {description.name}, not {name}", fix=fix)
    if scale not in (None, description.scale):
        fix = "Ask for a scale that is there."
        raise SlsError(f"holds no weights for x{scale} (there: x{description.scale})", fix=fix)


def _checked_own(description: Description, wanted: ModelConfig) -> Description:
    """A file's description with the options that the settings add.

    Raises:
        SlsError: it contradicts the settings, or has options by itself that are no numbers.
    """
    for key in sorted(wanted.model_fields_set & {"input_range", "frames", "output"}):
        said, found = getattr(wanted, key), getattr(description, key)
        if said is not None and said != found:
            what = f"was written with {key} = {found}, not {said}"
            raise SlsError(what, fix=f"Leave model.{key} out of the settings.")
    for key, value in description.options.items():
        said = wanted.options.get(key, value)
        if said != value:
            what = f"was written with options of {key} = {value}, not {said}"
            raise SlsError(what, fix="Leave it out of model.options.")
        if key not in wanted.options and not isinstance(value, _PLAIN):
            fix = f"Set model.options to {description.options} if you trust them."
            raise SlsError(f"has the option {key}, which is no number", fix=fix)
    return replace(description, options={**description.options, **wanted.options})


def _check_widths(model: RestorationModel) -> None:
    """Run a narrowed network on a small picture to see that its modules fit."""
    about = model.description
    if not about.widths:
        return
    side = padded_side(_SIDE, about.least_side, about.multiple)
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            small = torch.zeros(1, COLOURS * about.frames, side, side, device=parameter.device)
            shape = model(small).shape
    except RuntimeError:
        shape = None
    if shape != (1, COLOURS, side * about.scale, side * about.scale):
        fix = "Write the file again with this version."
        raise SlsError("the widths of its modules do not fit each other", fix=fix)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _listed(what: str, keys: Sequence[str], show: Callable[[str], str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _LISTED else ""
    unit = "key" if len(keys) == 1 else "keys"
    return f"{len(keys)} {unit} {what} ({', '.join(show(key) for key in keys[:_LISTED])}{more})"
