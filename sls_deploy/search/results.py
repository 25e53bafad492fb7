"""What the search stage tells its caller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sls_deploy.data.photos import Skipped


@dataclass(frozen=True)
class BudgetResult:
    """What the search reached for one budget."""

    budget: float
    """Cost asked for, as a share of the prunable layers' dense cost."""
    cost: float
    """Cost reached; never above the budget."""
    network_cost: float
    """The same over all layers of the network, dense ones included."""
    dense_psnr: float
    """PSNR of the dense network on held-out crops, dB over RGB."""
    psnr: float
    """PSNR of the sparse network on the same crops."""
    steps: int
    """Training steps done."""
    seconds: float
    """Wall time."""
    peak_mib: int
    """Peak resident memory of the process, MiB."""
    alignment: dict[str, Any] | None
    """Channels filled up with zeros, what that costs and gains; see `alignment_facts`."""
    permutation: dict[str, Any] | None
    """How much more the new order of channels keeps; see `Permutation.facts`."""
    refill: dict[str, Any] | None
    """Layers filled up to N = M/2 for the hardware, and what that bought; see `Refilled`."""
    candidates: tuple[dict[str, Any], ...]
    """Sources of ratios that competed under the same reconstruction; see `Outcome.candidates`."""
    notes: tuple[str, ...]
    """What is to be known of the calibration."""
    skipped: bool
    """Whether an unchanged earlier result was taken."""


@dataclass(frozen=True)
class SearchResult:
    """What the search stage wrote."""

    run: Path
    """The run folder."""
    model: str
    """Network, as the registry calls it."""
    budgets: tuple[BudgetResult, ...]
    """Results, by descending budget."""
    cost_note: str
    """What costs are, and where they come from."""
    photos: int
    """Photographs that can be used; a single one is learnt from and measured on."""
    skipped_photos: tuple[Skipped, ...]
    """Files left out, each with its reason."""
