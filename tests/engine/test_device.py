"""The device, read from a double of the driver and of NVML: there is no GPU to read here.

The double answers as the libraries do: through pointers, with error codes; and it keeps what it was
asked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sls_deploy.engine import gpu
from sls_deploy.engine.device import Device, present_device
from sls_deploy.engine.gpu import gpu_architecture, load_driver

NAMES = (b"NVIDIA A10", b"NVIDIA L4")
BUS_IDS = (b"0000:65:00.0", b"0000:17:00.0")
ATTRIBUTES = ({75: 8, 76: 6, 13: 1695000}, {75: 8, 76: 9, 13: 2040000})
"""By number of the CUDA driver API: major and minor compute capability, SM clock in kHz."""
NO_DEVICE, INVALID_DEVICE, INVALID_VALUE = 100, 101, 1


class Driver:
    """libcuda.so.1 of a machine with an A10 and an L4, as far as we call it."""

    def __init__(self, *failing: str, version: int = 12040) -> None:
        self.failing, self.version = failing, version
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        answers: dict[str, Callable[..., int]] = {
            "cuInit": lambda flags: 0,
            "cuDriverGetVersion": self._version,
            "cuDeviceGet": self._get,
            "cuDeviceGetAttribute": self._attribute,
            "cuDeviceGetName": lambda text, size, device: _write(text, size, NAMES[device.value]),
            "cuDeviceGetPCIBusId": lambda text, size, d: _write(text, size, BUS_IDS[d.value]),
            "cuDeviceTotalMem_v2": self._memory,
        }
        if name not in answers:
            raise AttributeError(name)

        def call(*given: Any) -> int:
            self.calls.append(name)
            return INVALID_VALUE if name in self.failing else answers[name](*given)

        return call

    def _version(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def _get(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0 if index < len(NAMES) else INVALID_DEVICE

    def _attribute(self, value: Any, number: int, device: ctypes.c_int) -> int:
        value._obj.value = ATTRIBUTES[device.value][number]
        return 0

    def _memory(self, size: Any, device: ctypes.c_int) -> int:
        size._obj.value = 23028 << 20
        return 0


def _write(text: Any, size: int, value: bytes) -> int:
    assert size == len(text) > len(value)
    text.value = value
    return 0


class NvmlError(Exception):
    """pynvml.NVMLError."""


def nvml(
    reasons: int = 0, missing: tuple[str, ...] = (), clock: int = 1350, set_clock: int = 1350
) -> SimpleNamespace:
    """The module pynvml on that machine; NVML counts the L4 first.

    Args:
        reasons: what limits the clock, NVML's bits.
        missing: what fails.
        clock: of the A10 now.
        set_clock: applications clock of the A10, whose default is 1695.
    """
    places = {"0000:17:00.0": "L4", "0000:65:00.0": "A10"}
    clocks = {("A10", 1): clock, ("A10", 2): 6251, ("L4", 1): 300, ("L4", 2): 405}
    set_clocks = {("A10", 0): set_clock, ("L4", 0): 2040}
    defaults = {("A10", 0): 1695, ("L4", 0): 2040}

    def ask(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            module.calls.append(name)
            if name in missing:
                raise NvmlError("Not Supported")
            return answer(*given)

        return call

    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        "nvmlDeviceGetHandleByPciBusId": lambda bus_id: places[bus_id],
        "nvmlDeviceGetClockInfo": lambda handle, kind: clocks[handle, kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {"A10": 1695, "L4": 2040}[handle],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: reasons,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: reasons,
        "nvmlDeviceGetApplicationsClock": lambda handle, kind: set_clocks[handle, kind],
        "nvmlDeviceGetDefaultApplicationsClock": lambda handle, kind: defaults[handle, kind],
    }
    module = SimpleNamespace(
        calls=[],
        NVMLError=NvmlError,
        NVML_CLOCK_GRAPHICS=0,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        **{name: ask(name, answer) for name, answer in answers.items()},
    )
    return module


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Puts a driver in place of the machine's; None for no driver."""

    def install(double: Any) -> None:
        monkeypatch.setattr(gpu, "load_driver", lambda: double)

    return install


@pytest.fixture
def pynvml(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Puts a module in place of pynvml; None for none installed."""

    def install(double: Any) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", double)

    return install


Install = Callable[[Any], None]


def test_all_that_driver_and_nvml_tell(driver: Install, pynvml: Install) -> None:
    driver(Driver())
    pynvml(nvml(reasons=0x2))
    assert present_device() == Device(
        name="NVIDIA A10",
        architecture="sm86",
        driver="550.54.15",
        cuda="12.4",
        memory_mib=23028,
        sm_clock_mhz=1350,
        max_sm_clock_mhz=1695,
        memory_clock_mhz=6251,
        clocks_locked=True,
    )
    assert gpu_architecture() == "sm86"


def test_nvml_is_asked_about_the_same_gpu_not_the_same_number(
    driver: Install, pynvml: Install
) -> None:
    driver(Driver())
    pynvml(nvml())
    second = present_device(1)
    assert second is not None
    assert (second.name, second.architecture, second.sm_clock_mhz) == ("NVIDIA L4", "sm89", 300)


def test_nvml_is_let_go_of(driver: Install, pynvml: Install) -> None:
    double = nvml(missing=("nvmlDeviceGetHandleByPciBusId",))
    driver(Driver())
    pynvml(double)
    device = present_device()
    assert device is not None
    assert (device.driver, device.sm_clock_mhz, device.clocks_locked) == ("550.54.15", None, None)
    assert double.calls[-1] == "nvmlShutdown"


@pytest.mark.parametrize(
    ("reasons", "locked"),
    [
        (0x0, None),  # as fast as it may, or held by a lock that shows nowhere
        (0x1, None),  # idle
        (0x2, True),
        (0x4, False),
        (0x2 | 0x20, False),
        (0x40, False),
    ],
)
def test_locks_are_told_only_where_nvml_shows_them(
    driver: Install, pynvml: Install, reasons: int, locked: bool | None
) -> None:
    driver(Driver())
    pynvml(nvml(reasons))
    device = present_device()
    assert device is not None
    assert device.clocks_locked is locked


@pytest.mark.parametrize(
    "double",
    [
        nvml(0x2, set_clock=1695),  # the default of a GPU for data centres
        nvml(0x2, clock=1695),
        nvml(0x2, missing=("nvmlDeviceGetApplicationsClock",)),
        nvml(0x2, missing=("nvmlDeviceGetDefaultApplicationsClock",)),
        nvml(0x2, missing=("nvmlDeviceGetMaxClockInfo",)),
    ],
)
def test_an_applications_clock_is_a_lock_only_if_somebody_set_it_lower(
    driver: Install, pynvml: Install, double: Any
) -> None:
    driver(Driver())
    pynvml(double)
    device = present_device()
    assert device is not None
    assert device.clocks_locked is None


@pytest.mark.parametrize(
    ("failing", "locked"),
    [
        (("nvmlDeviceGetCurrentClocksEventReasons",), True),
        (
            (
                "nvmlDeviceGetCurrentClocksEventReasons",
                "nvmlDeviceGetCurrentClocksThrottleReasons",
            ),
            None,
        ),
    ],
)
def test_an_older_module_of_nvml_tells_what_it_can(
    driver: Install, pynvml: Install, failing: tuple[str, ...], locked: bool | None
) -> None:
    driver(Driver())
    double = nvml(0x2)
    for name in failing:
        delattr(double, name)
    pynvml(double)
    device = present_device()
    assert device is not None
    assert (device.sm_clock_mhz, device.clocks_locked) == (1350, locked)


@pytest.mark.parametrize("double", [None, nvml(missing=("nvmlInit",))])
def test_without_nvml_the_driver_still_tells(driver: Install, pynvml: Install, double: Any) -> None:
    driver(Driver())
    pynvml(double)
    device = present_device()
    assert device is not None
    assert (device.name, device.memory_mib, device.max_sm_clock_mhz) == ("NVIDIA A10", 23028, 1695)
    now = (device.driver, device.sm_clock_mhz, device.memory_clock_mhz, device.clocks_locked)
    assert now == ("", None, None, None)


@pytest.mark.parametrize(
    ("failing", "clock", "locked"),
    [
        ("nvmlDeviceGetCurrentClocksEventReasons", 1350, True),  # told under its old name
        ("nvmlDeviceGetClockInfo", None, None),
        ("nvmlDeviceGetMaxClockInfo", 1350, None),
    ],
)
def test_what_nvml_refuses_is_unknown(
    driver: Install, pynvml: Install, failing: str, clock: int | None, locked: bool | None
) -> None:
    driver(Driver())
    pynvml(nvml(0x2, missing=(failing,)))
    device = present_device()
    assert device is not None
    assert (device.sm_clock_mhz, device.clocks_locked) == (clock, locked)


@pytest.mark.parametrize(
    "double", [None, Driver("cuInit"), Driver("cuDeviceGet"), Driver("cuDeviceGetAttribute")]
)
def test_without_a_driver_or_a_gpu_there_is_none(
    driver: Install, pynvml: Install, double: Any
) -> None:
    driver(double)
    pynvml(nvml())
    assert present_device() is None
    assert gpu_architecture() is None


def test_there_is_no_third_gpu(driver: Install, pynvml: Install) -> None:
    driver(Driver())
    pynvml(nvml())
    assert present_device(2) is None


@pytest.mark.parametrize(
    ("version", "expected"), [(11080, "11.8"), (12040, "12.4"), (13000, "13.0")]
)
def test_cuda_of_the_driver(driver: Install, pynvml: Install, version: int, expected: str) -> None:
    driver(Driver(version=version))
    pynvml(None)
    device = present_device()
    assert device is not None
    assert device.cuda == expected


def test_this_machine_has_a_device_where_it_has_an_architecture() -> None:
    device = present_device()
    assert (device.architecture if device else None) == gpu_architecture()
    if load_driver() is None:
        assert device is None


def test_the_module_of_nvml_has_all_that_is_asked() -> None:
    module = pytest.importorskip("pynvml")
    double = nvml()
    assert [name for name in vars(double) if name != "calls" and not hasattr(module, name)] == []
    kinds = (module.NVML_CLOCK_GRAPHICS, module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM)
    assert kinds == (0, 1, 2)
    assert module.nvmlClocksEventReasonApplicationsClocksSetting == 0x2
