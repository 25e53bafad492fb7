"""One builder of engines: the vendor's Python module and what differs between the modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal


@dataclass(frozen=True)
class Backend:
    """A TensorRT module that builds engines."""

    name: Literal["tensorrt", "tensorrt_rtx"]
    """Name of the Python module and of the setting, such as 'tensorrt_rtx'."""
    extra: Literal["cpu", "gpu"]
    """Extra of sls-deploy that installs it."""
    times_kernels: bool
    """Whether it chooses kernels by timing them on the GPU while it builds."""
    refusal: Callable[[str], str]
    """Why it cannot build for a target such as 'sm86' on this machine, or '' if it can."""
    aim: Callable[[Any, Any, tuple[str, ...]], None]
    """Points a builder's configuration at GPUs: (module, IBuilderConfig, ('sm80', 'sm86'))."""
    ignored: Mapping[str, str]
    """Settings of a build that it would fail on or silently ignore, and what to do instead."""

    def load(self) -> ModuleType | None:
        """The vendor's module; None where it is missing, broken, or only its type stubs are."""
        try:
            module = importlib.import_module(self.name)
        except (ImportError, OSError):
            return None
        return module if hasattr(module, "Builder") else None

    @property
    def version(self) -> str | None:
        """Version of the installed module; None where it is not installed."""
        module = self.load()
        return None if module is None else str(module.__version__)
