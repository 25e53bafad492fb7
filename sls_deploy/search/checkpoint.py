"""Resume state on disk: tensors and facts in one safetensors file, the newest two kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from sls_deploy.files import atomic

KEEP = 2
IDENTITY = "identity"
"""Fact that tells the checkpoints of one training from those of another."""
_FACTS = "facts"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training at the start of an epoch."""

    tensors: dict[str, Tensor]
    """Weights, scores and optimiser moments, by name."""
    facts: dict[str, Any]
    """JSON values: step, coefficients, history."""

    def group(self, name: str) -> dict[str, Tensor]:
        """Tensors whose names begin with this and a dot, without that."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }


def save_checkpoint(folder: Path, step: int, state: Checkpoint) -> Path:
    """Write a checkpoint atomically and drop all but the newest two.

    Args:
        folder: where the checkpoints of one training lie.
        step: grows with every checkpoint of the folder; the highest is the newest.
        state: what to keep.
    """
    path = folder / f"{step:09d}.safetensors"
    with atomic(path) as temporary:
        data = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        temporary.write_bytes(save(data, metadata={_FACTS: json.dumps(state.facts)}))
    for old in sorted(folder.glob("*.safetensors"))[:-KEEP]:
        old.unlink()
    return path


def resume(folder: Path, identity: str) -> Checkpoint | None:
    """Read the newest checkpoint of a training that is whole; None if there is none.

    Where there is none, checkpoints of other trainings are removed: they would pass for newer.

    Args:
        folder: where the checkpoints of the training lie.
        identity: hash of everything that the training depends on; its facts hold the same.
    """
    state = newest_checkpoint(folder)
    if state and state.facts.get(IDENTITY) == identity:
        return state
    for path in folder.glob("*.safetensors"):
        path.unlink(missing_ok=True)  # another process of the training does the same
    return None


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, of whatever training; None if there is none."""
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_FACTS])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError):
            continue
        return Checkpoint(tensors, facts)
    return None


def optimiser_state(optimiser: Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimiser as named tensors."""
    return {
        f"optimiser.{index}.{name}": value
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimiser_state(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_state` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
