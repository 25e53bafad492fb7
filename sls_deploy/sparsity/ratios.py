"""What a search decided, as the stages after it read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sls_deploy.errors import SlsError

WEIGHTS, REFILLED = "weights.safetensors", "refilled.safetensors"
"""Weights of a budget: those searched, and those whose layers below N = M/2 were filled up."""
PERMUTATION = "permutation.json"
"""What the order of channels, found before the masks, lets them keep; missing if it was left."""
_NEEDED = ("budget", "pattern", "cost", "network_cost")


def read_ratios(path: Path) -> dict[str, Any]:
    """Read the ratios.json of a budget.

    Raises:
        SlsError: the file is missing or damaged.
    """
    try:
        ratios: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _ = [ratios[key] for key in _NEEDED]
        _ = [layer[key] for layer in ratios["layers"] for key in ("name", "kept", "of")]
    except (OSError, ValueError, KeyError, TypeError):
        fix = "`sls-deploy search` writes it again."
        raise SlsError("does not hold the layers of a search", str(path), fix) from None
    return ratios


def read_permutation(folder: Path) -> dict[str, Any] | None:
    """What the order of channels of a budget gained; None if they were left in theirs.

    Args:
        folder: of the searched budget.

    Raises:
        SlsError: the file is damaged.
    """
    path = folder / PERMUTATION
    try:
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        fix = "`sls-deploy search` writes it again."
        raise SlsError("cannot be read", str(path), fix) from None
    return facts
