"""TensorRT for RTX: builds ahead of time, no GPU needed; kernels are chosen at loading."""

from __future__ import annotations

from typing import Any

from sls_deploy.engine.backend import Backend

_KNOWN = ("sm80", "sm86", "sm89")


def _refusal(architecture: str) -> str:
    known = ", ".join(_KNOWN)
    return "" if architecture in _KNOWN else f"it builds for {known} here, not {architecture}"


def _aim(trt: Any, config: Any, architectures: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(architectures)
    for place, architecture in enumerate(architectures):
        config.set_compute_capability(getattr(trt.ComputeCapability, architecture.upper()), place)


BACKEND = Backend("tensorrt_rtx", "cpu", _refusal, _aim)
