from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime
import pytest

from sls_deploy.calibration import cpu_layers
from sls_deploy.calibration.cpu_layers import CpuLayers, own_times, profiled
from sls_deploy.calibration.latency import LayerShape
from sls_deploy.errors import SlsError


@pytest.mark.parametrize(
    "layer",
    [
        LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), 16, 16, 1, 24, 24),
        LayerShape("Conv2d", (3, 3), (2, 2), (1, 1), 16, 16, 2, 12, 12),
        LayerShape("Conv2d", (3, 3), (1, 1), (4, 4), 16, 16, 1, 12, 12),
        LayerShape("ConvTranspose2d", (2, 2), (2, 2), (1, 1), 16, 8, 1, 12, 12),
        LayerShape("Conv1d", (3,), (1,), (1,), 16, 8, 1, 12, 12),
        LayerShape("Linear", (), (), (), 16, 8, 1, 12, 12),
    ],
    ids=str,
)
def test_layers_of_every_kind_are_timed(layer: LayerShape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.0)
    time = CpuLayers().time(layer)
    assert time.dense_us >= 1
    assert time.sparse_us >= 1
    assert 12 <= time.runs <= 30


def test_a_layer_counts_with_its_own_times_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = iter([sparse for order in cpu_layers._ORDERS for sparse in order])

    def own(times: Sequence[float], runs: Sequence[tuple[float, float]]) -> list[float]:
        assert len(times) == len(runs) == cpu_layers._LEAST
        assert all(0 < layer <= run for run, layer in runs)
        return [1.0, 1.0] if next(kinds) else [2.0, 2.0]

    monkeypatch.setattr(cpu_layers, "_SECONDS", 0.0)
    monkeypatch.setattr(cpu_layers, "own_times", own)
    time = CpuLayers().time(LayerShape("Conv2d", (3, 3), (1, 1), (1, 1), 32, 32, 1, 64, 64))
    assert (time.dense_us, time.sparse_us) == (2, 1)


def test_the_machine_says_what_ran_the_layers() -> None:
    machine = CpuLayers().machine
    assert machine.device
    assert (machine.backend, machine.backend_version) == ("onnxruntime", onnxruntime.__version__)
    assert (machine.threads, machine.precision, machine.compute_capability) == (1, "fp32", "")


def event(name: str, dur: int, operator: str = "") -> dict[str, Any]:
    args = {"op_name": operator} if operator else {}
    return {"cat": "Node" if operator else "Session", "name": name, "dur": dur, "args": args}


def test_all_but_the_layer_counts_as_its_surroundings() -> None:
    events = [event("session_initialization", 400)]
    for run, reorder, layer in ((100, 20, 60), (150, 30, 90)):
        events += [
            event("in_kernel_time", reorder, "ReorderInput"),
            event("layer_kernel_time", layer, "Conv"),
            event("out_kernel_time", reorder // 2, "ReorderOutput"),
            event("model_run", run),
        ]
    assert profiled(events) == [(100, 60), (150, 90)]


def test_nodes_that_a_layer_became_are_summed() -> None:
    events = [event("a", 30, "MatMul"), event("b", 10, "Add"), event("model_run", 55)]
    assert profiled(events) == [(55, 40)]


def test_runs_whose_surroundings_were_disturbed_are_left_out() -> None:
    around = [10.0, 11, 10, 4000, 10, 12, 10, 10, 10, 9000]
    own = own_times([100.0] * 10, [(90 + other, 90) for other in around])
    assert own == [90, 89, 90, 90, 88, 90, 90, 90]


def test_what_the_call_costs_in_python_is_taken_off() -> None:
    runs = [(20.0, 12.0), (21.0, 12.0), (20.0, 12.0)]
    assert own_times([25.0, 26.0, 25.0], runs) == [12, 12, 12]


def test_no_layer_takes_less_than_can_be_told() -> None:
    assert own_times([5.0, 5.0, 5.0], [(6.0, 1.0), (7.0, 1.0), (5.9, 1.0)]) == [1, 1, 1]


def test_at_least_two_runs_count() -> None:
    assert len(own_times([100.0] * 3, [(91.0, 90.0), (990.0, 90.0), (9000.0, 90.0)])) == 2


@pytest.mark.parametrize(("channels", "side"), [(64, 10**6), (64, 10**10), (10**6, 1000)])
def test_a_picture_that_memory_does_not_hold_is_refused(channels: int, side: int) -> None:
    huge = LayerShape("Conv2d", (1, 1), (1, 1), (1, 1), 1, channels, 1, side, side)
    with pytest.raises(SlsError, match=r"--shape: .*needs .* GiB.*Give a smaller one"):
        CpuLayers().time(huge)
