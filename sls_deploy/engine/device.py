"""The GPU that engines are timed on: what it is, who drives it, how fast it runs at the moment."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sls_deploy.engine.gpu import VisibleGpu, architecture_of, visible_gpu

_CLOCK_RATE = 13
"""CU_DEVICE_ATTRIBUTE_CLOCK_RATE: the fastest SM clock, in kHz."""
_LONGEST_NAME = 256
_LONGEST_BUS_ID = 32

_HELD_BY_A_SETTING = 0x2
"""nvmlClocksEventReasonApplicationsClocksSetting: the applications clock is what limits it."""
_PULLED_DOWN = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""Power cap, hardware slowdown, heat (software, hardware) and power brake: stronger than a lock."""


@dataclass(frozen=True)
class Device:
    """A GPU at one moment."""

    name: str
    """As the driver calls it, such as 'NVIDIA A10'."""
    architecture: str
    """Compute capability, such as 'sm86'."""
    driver: str
    """Version of the driver, such as '550.54.15'; '' where NVML is missing."""
    cuda: str
    """Newest CUDA that the driver serves, such as '12.4'."""
    memory_mib: int
    """Memory of the GPU, in MiB."""
    sm_clock_mhz: int | None
    """Clock of the multiprocessors now; None where NVML does not tell."""
    max_sm_clock_mhz: int | None
    """Fastest clock that they may reach."""
    memory_clock_mhz: int | None
    """Clock of the memory now; None where NVML does not tell."""
    clocks_locked: bool | None
    """Whether a clock that someone set holds the GPU now; None where NVML cannot tell.

    NVML sets locked clocks and has no call that reads them back. It tells what limits the clock at
    the moment: power or heat, which no lock withstands (False), or the applications clock. GPUs of
    data centres have one by default, so that is somebody's lock only where it is not the default
    and holds the GPU below its fastest clock (True). On an idle GPU none of this shows. So None is
    no proof against a lock: compare `sm_clock_mhz` before, during and after a measurement.
    """


def present_device(index: int = 0) -> Device | None:
    """The GPU that CUDA programs of this process use first.

    Clocks and the driver's version come from NVML (package nvidia-ml-py, extra 'gpu') and are
    unknown without it.

    Args:
        index: place among the visible GPUs, from 0; CUDA_VISIBLE_DEVICES decides which they are.

    Returns:
        None where there is no driver or no such GPU.
    """
    gpu = visible_gpu(index)
    architecture = None if gpu is None else architecture_of(gpu)
    if gpu is None or architecture is None:
        return None
    now = _read_nvml(_bus_id(gpu))
    return Device(
        name=_name(gpu),
        architecture=architecture,
        driver=now.driver,
        cuda=cuda_version(gpu.driver),
        memory_mib=_memory_mib(gpu),
        sm_clock_mhz=now.sm_clock_mhz,
        max_sm_clock_mhz=now.max_sm_clock_mhz or _max_sm_clock(gpu),
        memory_clock_mhz=now.memory_clock_mhz,
        clocks_locked=_locked(now),
    )


def clock_warning(clocks: str) -> str:
    """What to say of times of a GPU whose clocks are not known to be locked.

    Args:
        clocks: what they were, such as '1350 MHz at the end'; empty if that is unknown.
    """
    told = f", {clocks}" if clocks else ""
    fix = "`sudo nvidia-smi --lock-gpu-clocks=MHZ` locks them, at what the GPU holds under load"
    return f"the clocks of the GPU are not known to be locked{told}: {fix}"


def cuda_version(driver: Any) -> str:
    """Newest CUDA that a driver library serves, such as '12.4'; '' where it does not tell."""
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _name(gpu: VisibleGpu) -> str:
    name = ctypes.create_string_buffer(_LONGEST_NAME)
    failed = gpu.driver.cuDeviceGetName(name, _LONGEST_NAME, gpu.handle)
    return "" if failed else name.value.decode("utf-8", "replace")


def _bus_id(gpu: VisibleGpu) -> str:
    """Place on the PCI bus, such as '0000:65:00.0': the one name that CUDA and NVML share."""
    bus_id = ctypes.create_string_buffer(_LONGEST_BUS_ID)
    failed = gpu.driver.cuDeviceGetPCIBusId(bus_id, _LONGEST_BUS_ID, gpu.handle)
    return "" if failed else bus_id.value.decode("ascii", "replace")


def _memory_mib(gpu: VisibleGpu) -> int:
    size = ctypes.c_size_t()
    failed = gpu.driver.cuDeviceTotalMem_v2(ctypes.byref(size), gpu.handle)
    return 0 if failed else size.value // 2**20


def _max_sm_clock(gpu: VisibleGpu) -> int | None:
    rate = gpu.attribute(_CLOCK_RATE)
    return rate // 1000 if rate else None


@dataclass(frozen=True)
class _Nvml:
    """What NVML told; what it did not is None."""

    driver: str = ""
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    reasons: int | None = None
    set_clock_mhz: int | None = None
    default_clock_mhz: int | None = None


def _read_nvml(bus_id: str) -> _Nvml:
    """Ask NVML about the GPU at a place on the bus.

    By index would be wrong: NVML counts all GPUs of the machine, CUDA only those it may see.
    """
    try:
        import pynvml
    except (ImportError, OSError):
        return _Nvml()
    nvml: Any = pynvml

    def ask(name: str, *given: Any) -> Any:
        question: Callable[..., Any] | None = getattr(nvml, name, None)  # newer than some releases
        if question is not None:
            with suppress(nvml.NVMLError):  # a GPU, a driver or a container may lack any of them
                return question(*given)
        return None

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return _Nvml()
    try:
        driver = ask("nvmlSystemGetDriverVersion") or ""
        handle = ask("nvmlDeviceGetHandleByPciBusId", bus_id)
        if handle is None:
            return _Nvml(driver)
        sm, memory, graphics = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM, nvml.NVML_CLOCK_GRAPHICS
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # releases of NVML before 535 know the old name only
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return _Nvml(
            driver,
            sm_clock_mhz=ask("nvmlDeviceGetClockInfo", handle, sm),
            max_sm_clock_mhz=ask("nvmlDeviceGetMaxClockInfo", handle, sm),
            memory_clock_mhz=ask("nvmlDeviceGetClockInfo", handle, memory),
            reasons=reasons,
            set_clock_mhz=ask("nvmlDeviceGetApplicationsClock", handle, graphics),
            default_clock_mhz=ask("nvmlDeviceGetDefaultApplicationsClock", handle, graphics),
        )
    finally:
        nvml.nvmlShutdown()


def _locked(now: _Nvml) -> bool | None:
    """Whether a clock that someone set holds the GPU, by what NVML says limits its clock."""
    if now.reasons is None:
        return None
    if now.reasons & _PULLED_DOWN:
        return False
    below = now.sm_clock_mhz and now.max_sm_clock_mhz and now.sm_clock_mhz < now.max_sm_clock_mhz
    ours = (
        now.set_clock_mhz and now.default_clock_mhz and now.set_clock_mhz != now.default_clock_mhz
    )
    return True if now.reasons & _HELD_BY_A_SETTING and below and ours else None
