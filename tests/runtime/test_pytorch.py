from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.backends import cudnn

from sls_deploy.errors import SlsError
from sls_deploy.runtime.pytorch import TorchRunner

PICTURES = np.random.default_rng(0).random((2, 3, 5, 7), dtype=np.float32)


def test_gives_what_the_module_gives() -> None:
    output = TorchRunner(nn.Upsample(scale_factor=2)).run(PICTURES)
    assert output.dtype == np.float32
    assert np.array_equal(output, PICTURES.repeat(2, axis=2).repeat(2, axis=3))


def test_runs_in_evaluation_mode() -> None:
    output = TorchRunner(nn.Dropout(0.5).train()).run(PICTURES)
    assert np.array_equal(output, PICTURES)


def test_takes_an_array_that_is_not_contiguous() -> None:
    view = PICTURES.transpose(0, 1, 3, 2)
    assert np.array_equal(TorchRunner(nn.Identity()).run(view), view)


@pytest.mark.parametrize(
    ("pictures", "named"),
    [
        (PICTURES.astype(np.float64), "float64"),
        (PICTURES[0], r"\[3, 5, 7\]"),
        (PICTURES[:, :1], r"\[2, 1, 5, 7\]"),
        (PICTURES[:, :, :0], "no pixels"),
    ],
)
def test_refuses_pictures_of_another_form(pictures: np.ndarray, named: str) -> None:
    with pytest.raises(SlsError, match=named):
        TorchRunner(nn.Identity()).run(pictures)


def test_refuses_to_run_once_closed() -> None:
    runner = TorchRunner(nn.Identity(), "dense")
    runner.close()
    with pytest.raises(SlsError, match="dense: was closed"):
        runner.run(PICTURES)


def test_network_that_cannot_take_the_pictures_is_named() -> None:
    runner = TorchRunner(nn.Conv2d(6, 3, 1), "sparse PyTorch")
    with pytest.raises(SlsError, match=r"sparse PyTorch: failed on pictures of shape \[2, 3, 5, 7"):
        runner.run(PICTURES)


def test_a_stopwatch_gives_the_milliseconds_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((10.0, 10.25))
    runner = TorchRunner(nn.Identity())
    stopwatch = runner.stopwatch(PICTURES)
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    assert stopwatch() == 250


def test_a_stopwatch_runs_the_module_each_time() -> None:
    calls = []
    module = nn.Identity()
    module.register_forward_hook(lambda *_: calls.append(1))
    stopwatch = TorchRunner(module).stopwatch(PICTURES)
    assert stopwatch() > 0
    assert stopwatch() > 0
    assert len(calls) == 2


def test_a_stopwatch_says_what_the_network_cannot_take() -> None:
    stopwatch = TorchRunner(nn.Conv2d(4, 4, 3), "dense").stopwatch(PICTURES)
    with pytest.raises(SlsError, match=r"dense: failed on pictures of shape \[2, 3, 5, 7\]"):
        stopwatch()


def test_a_stopwatch_stops_with_its_runner() -> None:
    runner = TorchRunner(nn.Identity())
    stopwatch = runner.stopwatch(PICTURES)
    runner.close()
    with pytest.raises(SlsError, match="was closed"):
        stopwatch()


def test_layers_cannot_be_timed() -> None:
    assert TorchRunner(nn.Identity()).profile(PICTURES, 3) is None


class Asked(nn.Module):
    """Gives what it gets, and writes down how cuDNN is set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls.append((cudnn.allow_tf32, cudnn.benchmark))
        return batch


def test_convolutions_on_a_gpu_are_not_rounded_to_ten_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "benchmark", True)
    module = Asked()
    TorchRunner(module).run(PICTURES)
    assert module.calls == [(False, True)]
    assert (cudnn.allow_tf32, cudnn.benchmark) == (True, True)


def test_a_stopwatch_on_a_gpu_stands_around_one_run_while_it_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Asked()
    event = SimpleNamespace(
        record=lambda: module.calls.append("event"),
        synchronize=lambda: module.calls.append("wait"),
        elapsed_time=lambda end: 1.5,
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda *, enable_timing: event)
    monkeypatch.setattr(TorchRunner, "_batch", lambda *_: SimpleNamespace(is_cuda=True))
    assert TorchRunner(module).stopwatch(PICTURES)() == 1.5
    run = (False, False)  # no TF32, and no choice of kernels by their times
    assert module.calls == [run, "event", run, "event", "wait"]
