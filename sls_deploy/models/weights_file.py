"""Files of weights: reading them without running anything in them, and writing them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sls_deploy.errors import SlsError
from sls_deploy.files import atomic
from sls_deploy.models.architecture import Description, StateDict

_KEY = "description"
_NESTS = (
    "params_ema", "params", "state_dict", "model_state_dict", "model", "network", "net",
    "generator",
)  # fmt: skip
"""Where training codes put the state dict, in the order of preference."""
_PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel training and `torch.compile` put before every key."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], Description | None]:
    """Read a state dict, on the CPU, and the description that stands beside it, if any.

    A state dict inside 'params_ema', 'state_dict' and the like is taken out, and the prefixes of
    data-parallel training and `torch.compile` are taken off.

    Raises:
        SlsError: no such file; a file that is damaged, holds more than weights, or no state dict;
            a tensor that is not of real or whole numbers, or holds NaN or infinity.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise SlsError(what, str(path), "Name a file of weights.")
    if path.suffix not in _SUFFIXES:
        fix = f"Name a file that ends in {', '.join(_SUFFIXES)}."
        raise SlsError("is not known as a file of weights", str(path), fix)
    description = None
    if path.suffix == ".safetensors":
        content, description = _read_safetensors(path)
    else:
        content = _read_pickled(path)
    state = _state_dict(content, str(path))
    for key, tensor in state.items():
        strange = tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided
        if strange or tensor.is_meta:
            kind = "without values" if tensor.is_meta else f"of {tensor.layout} {tensor.dtype}"
            raise SlsError(f"{key} is a tensor {kind}, not of plain numbers", str(path))
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            fix = "Use a checkpoint from before the training diverged."
            raise SlsError(f"{key} holds NaN or infinity", str(path), fix)
    return state, description


def write_weights(path: Path, state: StateDict, description: Description) -> Path:
    """Write a state dict and its description as safetensors, atomically.

    Raises:
        SlsError: the disk is full or the folder cannot be written; `path` is left as it was.
    """
    # Copies: a module that has two names has its weights under both, which the format refuses.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    content = save(tensors, {_KEY: description.to_json()})
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Description | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SlsError(f"cannot be read as safetensors ({error})", str(path)) from None
    return state, _description(metadata[_KEY], str(path)) if _KEY in metadata else None


def _read_pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a refusal is warned of and raised: once is enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail at any point of the reader
        text = str(error)
    if "weights only" in text.lower().replace("_", " "):
        found = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"holds code or objects ({found[1]})" if found else "holds more than weights"
        fix = "Save the state_dict() of the network alone and use that file."
        raise SlsError(f"{what}, so it was not opened", str(path), fix)
    fix = "Copy or download it again."
    raise SlsError("cannot be read as a PyTorch checkpoint", str(path), fix)


def _state_dict(content: Any, where: str) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping) and (nests := _nests(content)):
        content = content[nests[0]]
    named = isinstance(content, Mapping) and all(isinstance(key, str) for key in content)
    if not named or not content or not all(map(torch.is_tensor, content.values())):
        fix = "Save the state_dict() of the network alone and use that file."
        raise SlsError("is not a state dict", where, fix)
    state = dict(content)
    while found := [prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)]:
        state = {key.removeprefix(found[0]): tensor for key, tensor in state.items()}
    return state


def _nests(content: Mapping[str, Any]) -> list[str]:
    return [nest for nest in _NESTS if isinstance(content.get(nest), Mapping) and content[nest]]


def _description(text: str, where: str) -> Description:
    try:
        description = TypeAdapter(Description).validate_json(text, strict=True)
        counts = (
            description.scale,
            description.least_side,
            description.multiple,
            description.frames,
        )
        if min(counts) < 1 or description.input_range not in (1.0, 255.0):
            raise ValueError("a count or a range that no network has")
        return description
    except ValueError:  # also pydantic's
        fix = "Write the file again with this version."
        raise SlsError("its description of the network is not understood", where, fix) from None
