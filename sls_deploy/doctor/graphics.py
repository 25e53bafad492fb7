"""The GPU and its driver, and whether the packages suit them."""

from __future__ import annotations

import re

from sls_deploy.doctor import facts
from sls_deploy.doctor.diagnosis import Finding
from sls_deploy.engine.gpu import capability

_SPARSE_SINCE = (8, 0)
"""Compute capability of Ampere, the first with 2:4 sparse tensor cores (NVIDIA Ampere
architecture white paper)."""
_LEAST_DRIVER = {12: "525.60.13", 13: "580.65.06"}
"""Oldest driver for a CUDA of that major version (CUDA Toolkit release notes, table 'minimum
required driver version for CUDA minor version compatibility')."""
_CUDA_OF_PACKAGE = re.compile(r"(tensorrt(?:-rtx)?)-cu(\d+)")


def check_gpu(gpu: facts.Gpu) -> list[Finding]:
    """The GPU, what it can do, and its clocks."""
    device = gpu.device
    if device is None:
        return [Finding("GPU", "absent", gpu.trouble)]
    number = capability(device.architecture)
    major, minor = map(int, number.split("."))
    sparse = (major, minor) >= _SPARSE_SINCE
    found = f"{device.name}, compute capability {number}, {device.memory_mib} MiB"
    return [
        Finding("GPU", "ok", found),
        Finding("sparse tensor cores", "ok", "yes: 2:4 weights may be faster")
        if sparse
        else Finding(
            "sparse tensor cores",
            "warning",
            "no: 2:4 weights gain nothing on this GPU",
            "Deploy to a GPU of compute capability 8.0 or later.",
        ),
        _clocks(gpu),
    ]


def _clocks(gpu: facts.Gpu) -> Finding:
    device = gpu.device
    if device is None or device.sm_clock_mhz is None:
        fix = "pip install nvidia-ml-py"
        return Finding("clocks", "warning", "unknown, NVML does not tell them", fix)
    says = f"SM {device.sm_clock_mhz} of {device.max_sm_clock_mhz} MHz now"
    if device.clocks_locked:
        return Finding("clocks", "ok", f"{says}, held by a setting")
    if device.clocks_locked is None:
        says += "; NVML cannot tell whether they are locked"
    fix = "Lock them before you measure: sudo nvidia-smi --lock-gpu-clocks=MHZ,MHZ"
    return Finding("clocks", "warning", says, fix)


def check_driver(gpu: facts.Gpu, torch_cuda: str | None, installed: dict[str, str]) -> Finding:
    """The driver, and whether it serves the CUDA that the packages were built for.

    A driver serves all CUDA of its own major version and before.

    Args:
        gpu: what the driver says.
        torch_cuda: CUDA of PyTorch, such as '12.8'; None for none.
        installed: version by name of the packages.
    """
    if not gpu.cuda:
        return Finding("CUDA driver", "absent", gpu.trouble)
    version = gpu.device.driver if gpu.device else ""
    says = f"{version or 'of unknown version'}, serves CUDA {gpu.cuda}"
    served = int(gpu.cuda.split(".")[0])
    needs = {} if torch_cuda is None else {"torch": int(torch_cuda.split(".")[0])}
    for name in installed:
        if match := _CUDA_OF_PACKAGE.fullmatch(name):
            needs[match[1]] = int(match[2])
    newer = {name: major for name, major in needs.items() if major > served}
    if not newer:
        return Finding("CUDA driver", "ok", says)
    wanted = max(newer.values())
    least = _LEAST_DRIVER.get(wanted)
    wants = " and ".join(f"{name} needs CUDA {major}" for name, major in newer.items())
    fix = f"Update the NVIDIA driver{f' to {least} or later' if least else ''}"
    others = [f"{name}-cu{served}" for name in newer if name != "torch"]
    fix += f", or pip install {' '.join(others)}" if others else ""
    return Finding("CUDA driver", "broken", f"{says}, but {wants}", f"{fix}.")
