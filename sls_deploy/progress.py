"""How a stage tells its caller where it stands. Stages report; only the command line prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report of a stage at work."""

    task: str
    """What is being done, in a few words, such as 'search b0.50'."""
    done: int
    """Units of work finished."""
    total: int
    """Units of work in all."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured figures to show beside the bar, such as loss or PSNR in dB."""


Report = Callable[[Progress], None]
"""Receives each report; called often, so it must be quick."""


def silent(_: Progress) -> None:
    """Ignore every report."""
