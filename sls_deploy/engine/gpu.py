"""What the NVIDIA driver says about the GPU of this machine, without PyTorch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


@dataclass(frozen=True)
class VisibleGpu:
    """A GPU that the CUDA driver lets this process see."""

    driver: Any
    """The driver's library, made ready by cuInit."""
    handle: ctypes.c_int
    """The driver's CUdevice."""

    def attribute(self, number: int) -> int | None:
        """A CU_DEVICE_ATTRIBUTE of the driver API; None where the driver refuses it."""
        value = ctypes.c_int()
        failed = self.driver.cuDeviceGetAttribute(ctypes.byref(value), number, self.handle)
        return None if failed else value.value


def visible_gpu(index: int = 0) -> VisibleGpu | None:
    """A visible GPU by its place; None where there is no driver or no such GPU.

    The driver is asked because it, unlike NVML, honours CUDA_VISIBLE_DEVICES.
    """
    driver = load_driver()
    if driver is None:
        return None
    handle = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), index)
    return None if failed else VisibleGpu(driver, handle)


def load_driver() -> Any:
    """The library of the CUDA driver, not made ready yet; None where none is installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def gpu_architecture() -> str | None:
    """Compute capability of the first visible GPU, such as 'sm86'; None where there is none."""
    gpu = visible_gpu()
    return None if gpu is None else architecture_of(gpu)


def architecture_of(gpu: VisibleGpu) -> str | None:
    """Compute capability of a GPU, such as 'sm86'; None where the driver does not tell."""
    major, minor = gpu.attribute(_MAJOR), gpu.attribute(_MINOR)
    return None if major is None or minor is None else f"sm{major}{minor}"


def capability(architecture: str) -> str:
    """Compute capability in NVIDIA's notation: '8.6' for 'sm86'."""
    digits = architecture.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"
