from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest

from sls_deploy.calibration import gpu_layers
from sls_deploy.calibration.gpu_layers import GpuLayers, build_layer
from sls_deploy.calibration.latency import LayerShape
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.device import Device, present_device
from sls_deploy.errors import SlsError

LAYER = LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), 16, 8, 2, 20, 30)
A10 = Device("NVIDIA A10", "sm86", "550.54", "12.4", 23028, 885, 1695, 6251, None)


@dataclass
class Engines:
    """Stands for engines on a GPU: says what they were asked, in order."""

    milliseconds: tuple[float, ...] = (0.4, 0.3, 0.3, 0.4) * 2
    """Of each engine, in the order in which they are built."""
    asked: tuple[tuple[int, Any, int], ...] = ()
    closed: int = 0

    def __post_init__(self) -> None:
        numbers = count()
        engines = self

        class Loaded:
            def __init__(self, backend: Any, plan: bytes, where: str, *, graphs: bool) -> None:
                assert plan
                assert not graphs  # the profiler needs single kernels
                self.number = next(numbers)

            def profile(self, shape: tuple[int, ...], repeats: int) -> dict[str, float]:
                engines.asked += ((self.number, shape, repeats),)
                time = engines.milliseconds[self.number % len(engines.milliseconds)]
                first = "Reformatting CopyNode for Input Tensor 0 to layer"
                return {first: 5.0, "layer": time, "Reformatting CopyNode for Output": 5.0}

            def close(self) -> None:
                engines.closed += 1

        self.loaded = Loaded


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """A machine with an A10 as far as Python sees; engines are not run."""
    made = Engines()
    monkeypatch.setattr(gpu_layers, "present_device", lambda: A10)
    monkeypatch.setattr(gpu_layers, "require_cuda", lambda where: None)
    monkeypatch.setattr(gpu_layers, "LoadedEngine", made.loaded)
    return made


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Engines that are asked for: whether each is 2:4. None is built."""
    kinds: list[bool] = []

    def build(*_: Any, sparse: bool) -> bytes:
        kinds.append(sparse)
        return b"plan"

    monkeypatch.setattr(gpu_layers, "build_layer", build)
    return kinds


def test_a_layer_is_timed_dense_and_sparse_in_turns(engines: Engines, built: list[bool]) -> None:
    timer = GpuLayers("tensorrt_rtx")
    time = timer.time(LAYER)
    assert [time.dense_us, time.sparse_us] == pytest.approx([400, 300])
    assert time.spread == pytest.approx(0)
    assert time.runs == 20
    assert built == [False, True, True, False] * 2
    assert [number for number, _, _ in engines.asked[:12]] == [0, 1] * 6
    assert {shape for _, shape, _ in engines.asked} == {(1, 32, 20, 30)}
    assert engines.closed == 8
    assert str(timer.machine).startswith("NVIDIA A10 with tensorrt_rtx 1.")
    assert (timer.machine.compute_capability, timer.machine.threads) == ("8.6", 0)


def test_builds_that_differ_are_spread(engines: Engines, built: list[bool]) -> None:
    """All engines are alike but for what each build chose."""
    engines.milliseconds = (0.40, 0.36, 0.36, 0.40, 0.36, 0.36, 0.40, 0.38)
    time = GpuLayers("tensorrt_rtx").time(LAYER)
    assert time.sparse_us < time.dense_us
    assert 1 - time.sparse_us / time.dense_us <= time.spread


def test_a_profile_without_times_is_no_result(engines: Engines, built: list[bool]) -> None:
    engines.milliseconds = (0.0,)
    with pytest.raises(SlsError, match="reported no time"):
        GpuLayers("tensorrt_rtx").time(LAYER)
    assert engines.closed == 2


@pytest.mark.parametrize(
    ("locked", "said"),
    [
        ((None, None), "nvidia-smi -lgc"),
        ((None, True), ""),
        ((True, True), ""),
        ((True, False), "power or heat"),
    ],
)
def test_clocks_are_looked_at_after_each_layer(
    engines: Engines,
    built: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    locked: tuple[bool | None, ...],
    said: str,
) -> None:
    timer = GpuLayers("tensorrt_rtx")
    assert not timer.warnings  # nothing was timed
    for state in locked:
        device = replace(A10, clocks_locked=state)
        monkeypatch.setattr(gpu_layers, "present_device", lambda device=device: device)
        timer.time(LAYER)
    assert said in "".join(timer.warnings)
    assert len(timer.warnings) == bool(said)


@pytest.mark.parametrize(
    "layer",
    [
        replace(LAYER, stride=(2, 2)),
        LayerShape("ConvTranspose2d", (6, 6), (2, 2), (1, 1), 16, 8, 1, 10, 15),
        LayerShape("Linear", (), (), (), 16, 8, 1, 10, 15),
    ],
    ids=str,
)
def test_layers_are_built_into_engines(layer: LayerShape) -> None:
    assert build_layer(layer, "fp16", BACKENDS["tensorrt_rtx"], "sm86", sparse=True)


@pytest.mark.skipif(present_device() is not None, reason="there is a GPU here")
def test_without_a_gpu_nothing_is_timed() -> None:
    with pytest.raises(SlsError, match=r"there is none here.*--backend onnxruntime"):
        GpuLayers()


@pytest.mark.gpu
@pytest.mark.skipif(present_device() is None, reason="needs an NVIDIA GPU")
def test_layers_are_timed_on_a_gpu() -> None:
    timer = GpuLayers()
    time = timer.time(LAYER)
    assert time.dense_us > 0
    assert time.sparse_us > 0
