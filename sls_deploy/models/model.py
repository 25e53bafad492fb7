"""A network with its description, and its way from and to a file of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description, StateDict
from sls_deploy.models.narrow import narrow
from sls_deploy.models.registry import REGISTRY
from sls_deploy.models.weights_file import read_weights, write_weights

_LISTED = 3


class RestorationModel(nn.Module):
    """Restores pictures on 0..1, whatever range the raw network works on.

    Args:
        network: the raw network.
        description: what it is.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.network = network
        self.description = description

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """NCHW RGB on 0..1 to the same with sides times the scale; the output is not clamped."""
        white = self.description.input_range
        if white == 1:
            return self.network(x)  # type: ignore[no-any-return]
        return self.network(x * white) / white  # type: ignore[no-any-return]


def build_model(description: Description) -> RestorationModel:
    """Make a network with fresh weights.

    Raises:
        SlsError: no such network, options that it does not have, or widths that it cannot have.
    """
    architecture = REGISTRY.get(description.name)
    try:
        network = architecture.build(**description.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SlsError(f"cannot build {description.name} ({error})") from None
    narrow(network, description.widths)
    return RestorationModel(network, description)


def load_model(weights: Path, name: str = "auto", scale: int | None = None) -> RestorationModel:
    """Load a network, in float32 on the CPU and in evaluation mode.

    Args:
        weights: a .safetensors, .pth, .pt or .ckpt file; nothing in it is run.
        name: the network it must be, or 'auto'.
        scale: the scale wanted where the weights hold several; None for the largest.

    Raises:
        SlsError: the file cannot be read as weights; they are of no known network, of another than
            `name`, or of another scale; they do not fit the network, or hold NaN or infinity.
    """
    if name != "auto":
        REGISTRY.get(name)
    state, description = read_weights(weights)
    try:
        if description is None:
            description = REGISTRY.recognise(state, scale)
        _check_wanted(description, name, scale)
        # Without memory behind it the network is made at once, and its initial weights never are.
        with torch.device("meta"):
            model = build_model(description)
            _check_widths(model.eval())
        fitting = fit_state(state, model)
    except SlsError as error:
        raise SlsError(error.what, str(weights), error.fix) from None
    own = {key: tensor.float().contiguous() for key, tensor in fitting.items()}
    model.network.load_state_dict(own, assign=True)
    return model.eval()


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


def fit_state(state: StateDict, model: RestorationModel) -> dict[str, torch.Tensor]:
    """The tensors of `state` that the raw network takes; those of other scales are left out.

    Raises:
        SlsError: keys are missing, unexpected or of another shape; names the first few.
    """
    name = model.description.name
    droppable = REGISTRY.get(name).droppable
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
        raise SlsError(f"does not fit {name}: {what}", fix="Give the weights of that network.")
    return {key: state[key] for key in wanted}


def _check_wanted(description: Description, name: str, scale: int | None) -> None:
    if name not in ("auto", description.name):
        fix = f"Ask for {description.name}, or give the weights of {name}."
        raise SlsError(f"holds {description.name}, not {name}", fix=fix)
    if scale not in (None, description.scale):
        fix = "Ask for a scale that is there."
        raise SlsError(f"holds no weights for x{scale} (there: x{description.scale})", fix=fix)


def _check_widths(model: RestorationModel) -> None:
    """Run a narrowed network, which has no memory behind it, to see that its modules fit."""
    if not model.description.widths:
        return
    side, scale = REGISTRY.get(model.description.name).least_side, model.description.scale
    try:
        shape = model(torch.empty(1, 3, side, side)).shape
    except RuntimeError:
        shape = None
    if shape != (1, 3, side * scale, side * scale):
        fix = "Write the file again with this version."
        raise SlsError("the widths of its modules do not fit each other", fix=fix)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _listed(what: str, keys: Sequence[str], show: Callable[[str], str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _LISTED else ""
    unit = "key" if len(keys) == 1 else "keys"
    return f"{len(keys)} {unit} {what} ({', '.join(show(key) for key in keys[:_LISTED])}{more})"
