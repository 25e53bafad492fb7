"""TensorRT for RTX: builds ahead of time, no GPU needed; kernels are chosen at loading."""

from __future__ import annotations

from typing import Any

from sls_deploy.engine.backend import Backend

_KNOWN = ("sm80", "sm86", "sm89")
_NOT_TIMED = "it chooses kernels when an engine is loaded, not when it is built"
_IGNORED = {
    "optimization_level": f"has no effect on its engines; {_NOT_TIMED}",
    "aux_streams": "has no effect on its engines",
    "hardware_compatibility": "has no effect on its engines; name all GPUs, such as sm80+sm86",
    "version_compatible": "cannot be had: its engines run with the version that built them only",
    "timing_cache": f"stays empty; {_NOT_TIMED}",
}
"""Measured on 1.7.1: equal engines at every level and number of streams, a warning or a failure
for the others. NVIDIA's "TensorRT for RTX" documentation says the same of versions (Engine
Compatibility) and of the timing cache (deprecated in 1.2)."""


def _refusal(target: str) -> str:
    known = ", ".join(_KNOWN)
    missing = [part for part in target.split("+") if part not in _KNOWN]
    return f"it builds for {known} here, not {', '.join(missing)}" if missing else ""


def _aim(trt: Any, config: Any, architectures: tuple[str, ...]) -> None:
    # Without it an engine may allocate while it runs, and then no CUDA graph can be recorded.
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.num_compute_capabilities = len(architectures)
    for place, architecture in enumerate(architectures):
        config.set_compute_capability(getattr(trt.ComputeCapability, architecture.upper()), place)


BACKEND = Backend("tensorrt_rtx", "cpu", False, _refusal, _aim, _IGNORED)
