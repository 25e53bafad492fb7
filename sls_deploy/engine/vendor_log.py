"""Keeps what the vendor's logger says, and finds the cause of a failure in it."""

from __future__ import annotations

import re
from typing import Any, TextIO

_NOISE = re.compile(r"^(While parsing node|--- (Begin|End) node|Node name:|Invalid Node|\s*$)")
_ORIGIN = re.compile(
    r"^\S+\.(cpp|h):\d+: |^\w+::\w+: (?=Error Code)|^\S+\] "
    r"|^Error Code \d+: ((API Usage|Internal) Error \(|Cuda Runtime \((?=In ))?"
)
_PLACE = re.compile(r"\s*\(?In \w+ at \S+:\d+\)?|\s*\(\w+Error \d+:.*$")


class VendorLog:
    """What the vendor's logger said, kept in memory instead of the terminal.

    Args:
        trt: the vendor's module.
        echo: where each error is written at once, so that it outlives a crash.
    """

    def __init__(self, trt: Any, echo: TextIO | None = None) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.sparsity: list[str] = []
        severity = trt.ILogger.Severity
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in (severity.ERROR, severity.INTERNAL_ERROR):
                    log.errors.append(message)
                    if echo:
                        echo.write(message + "\n")
                        echo.flush()
                elif level == severity.WARNING and message not in log.warnings:
                    log.warnings.append(message)
                elif message.startswith("(Sparsity)"):
                    log.sparsity.append(message)

        self.logger: Any = Logger()

    def first_error(self) -> str:
        """The first error that names a cause, without places in the vendor's source."""
        said = "\n".join(self.errors)
        return first_cause(said) or said.partition("\n")[0] or "no reason was given"


def first_cause(text: str) -> str:
    """The first line of a log that names a cause, cleaned; '' if none does."""
    return next((line for line in map(clean, text.splitlines()) if line), "")


def clean(line: str) -> str:
    """A line of the vendor's log without source places; '' if it says nothing by itself."""
    text = line.strip()
    while match := _ORIGIN.match(text):
        text = text[match.end() :]
    text = _PLACE.sub("", text).strip().rstrip(".")
    return "" if _NOISE.match(text) else text
