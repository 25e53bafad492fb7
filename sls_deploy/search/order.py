"""The order of channels of a search, kept on disk for one that was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sls_deploy.files import write_json
from sls_deploy.models.model import load_like, save_weights
from sls_deploy.progress import Progress, Report
from sls_deploy.search.checkpoint import IDENTITY
from sls_deploy.search.permute import permute
from sls_deploy.search.reconstruction import Reconstruction

_CROPS = 16
"""Crops that the importance of weights is measured on."""
_WEIGHTS, _FACTS = "weights.safetensors", "permutation.json"


def order_channels(
    work: Reconstruction, folder: Path, identity: str, report: Report
) -> dict[str, Any]:
    """Bring the dense network's channels into a new order, or into the one found before.

    Args:
        work: holds the dense network, which is replaced.
        folder: where order and network are kept.
        identity: hash of everything that the order depends on.
        report: told of each stream, if the order is not there yet.

    Returns:
        What is to be known of it, see `Permutation.facts`.
    """
    facts: dict[str, Any] | None = work.processes.first(lambda: _read(folder / _FACTS, identity))
    if facts is not None:
        work.model = load_like(folder / _WEIGHTS, work.model)
        return facts
    found = _reorder(work, report)

    def keep() -> None:
        (folder / _FACTS).unlink(missing_ok=True)  # it must not pass for that of other weights
        save_weights(folder / _WEIGHTS, work.model)
        write_json(folder / _FACTS, {"facts": found, IDENTITY: identity})

    work.processes.first(keep)
    return found


def _reorder(work: Reconstruction, report: Report) -> dict[str, Any]:
    few = replace(work.calibration, pictures=work.calibration.pictures[:_CROPS])
    found = permute(
        work.graph,
        work.model,
        work.layers,
        few,
        lambda done, total: report(Progress("permute channels", done, total)),
    )
    work.model = work.processes.same(found.model)
    if found.rejected:
        work.notes.append(
            f"{found.rejected} sets of channels stay in their order: in another the network "
            "computes something else"
        )
    return found.facts()


def _read(path: Path, identity: str) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return kept["facts"] if kept.get(IDENTITY) == identity else None
