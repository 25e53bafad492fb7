"""What a visit to the doctor ends in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "warning", "broken"]
"""'absent' is missing and not always needed; 'broken' is there and does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What it is, such as 'PyTorch' or 'disk of the working folder'."""
    state: State
    """How it stands."""
    says: str
    """What was found, in a few words."""
    fix: str = ""
    """What mends it, a command where one does; '' where nothing has to be done."""


@dataclass(frozen=True)
class Ability:
    """One thing that sls-deploy does."""

    name: str
    """What it is, such as 'build'."""
    works: bool
    """Whether it works on this machine."""
    essential: bool
    """Whether the flow from search to validate needs it."""
    says: str
    """What was tried, or why it does not work."""
    fix: str = ""
    """What makes it work; '' where it does."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and what follows."""

    findings: tuple[Finding, ...]
    """What was looked at, the machine first."""
    abilities: tuple[Ability, ...]
    """What works here, in the order of the flow."""

    @property
    def works(self) -> bool:
        """Whether search, export, build and validate all work."""
        return not self.missing

    @property
    def missing(self) -> tuple[Ability, ...]:
        """Essential abilities that do not work."""
        return tuple(item for item in self.abilities if item.essential and not item.works)
