"""TensorRT 10.12 to 11: builds for the GPU that is present, on which it times the kernels."""

from __future__ import annotations

from typing import Any

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.gpu import capability, gpu_architecture


def _refusal(target: str) -> str:
    present = gpu_architecture()
    if present is None:
        return "it builds only for a GPU that is present, and there is none here"
    if "+" in target:
        return "an engine of it is for one compute capability, or for all by hardware_compatibility"
    if present != target:
        return (
            f"it builds only for the GPU that is present, whose compute capability is "
            f"{capability(present)}, not {capability(target)}"
        )
    return ""


def _aim(trt: Any, config: Any, architectures: tuple[str, ...]) -> None:
    """The GPU that is present is the target already."""


BACKEND = Backend("tensorrt", "gpu", True, _refusal, _aim, {})
