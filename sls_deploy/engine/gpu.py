"""What the NVIDIA driver says about the GPU of this machine, without PyTorch."""

from __future__ import annotations

import ctypes

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


def gpu_architecture() -> str | None:
    """Compute capability of the first visible GPU, such as 'sm86'; None where there is none.

    The driver is asked because it, unlike NVML, honours CUDA_VISIBLE_DEVICES.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    return None if failed else f"sm{major.value}{minor.value}"


def capability(architecture: str) -> str:
    """Compute capability in NVIDIA's notation: '8.6' for 'sm86'."""
    digits = architecture.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"
