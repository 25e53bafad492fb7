"""The one error that a user sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_LONGEST = 300
"""Characters of another's error that are shown."""


class SlsError(Exception):
    """Bad input or a machine that cannot do what was asked.

    The command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, in a sentence without a full stop.
        where: the file, flag, layer or line that it is about; may be empty.
        fix: what to do next, in the user's own words and flags.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        line = ": ".join(part for part in (where, what) if part)
        super().__init__(" ".join(f"{line}. {fix}".split()) if fix else " ".join(line.split()))


class OutOfMemory(SlsError):  # noqa: N818 - callers try again with less
    """A network ran out of memory, on the host or on the GPU; smaller batches or tiles may help.

    If it was loaded already, it can still be run on less.
    """


def reason(error: BaseException) -> str:
    """What another's error says, with its kind, on one line."""
    text = " ".join(str(error).split())[:_LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def problem(error: ValidationError) -> str:
    """Where a file departs from its form, and how, by pydantic's first complaint."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


class GateError(Exception):
    """The work is done and written, but a quality gate failed (exit code 1)."""
