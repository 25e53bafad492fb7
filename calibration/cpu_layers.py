"""Times single layers on the processor of this machine, with ONNX Runtime."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sls_deploy.calibration.latency import LayerShape, LayerTime, Machine
from sls_deploy.calibration.layer_graph import input_sizes, layer_graph
from sls_deploy.calibration.layer_timing import layer_time
from sls_deploy.errors import OutOfMemory, SlsError
from sls_deploy.runtime.bench_result import processor
from sls_deploy.runtime.onnxruntime import load_onnxruntime, run_session

_ORDERS = ((False, True), (True, False)) * 3
"""Pairs of sessions, one after the other: whether the first and the second is 2:4. What is made
first may find other memory than what is made second; so each kind is first as often."""
_WARM_UP = 2
_LEAST, _MOST = 5, 40
"""Runs of a session of which the median is taken: as many as take its time, within these."""
_SECONDS = 0.25
"""Seconds that a pair of sessions takes."""
_RESOLUTION = 1.0
"""Microseconds that ONNX Runtime's profiler can tell apart: no layer takes less."""
_FATAL = 4
"""ONNX Runtime's log level that prints nothing: its errors arrive as exceptions anyway."""
_CONVERSIONS = ("ReorderInput", "ReorderOutput")
"""Operators that ONNX Runtime puts around a convolution, for the layout it works in."""
_DISTURBED = 2.0
"""A run is left out whose surroundings took so many times as long as in the first decile: another
program had the processor meanwhile."""
_VALUE = 4
"""Bytes of an fp32 value."""


class CpuLayers:
    """Six pairs of sessions of ONNX Runtime a layer, dense and 2:4, fp32, one thread.

    With one thread all work is done in the thread that asks for it, so what is taken is that
    thread's processor time: programs that run beside take their share of the wall clock, not of it.
    The conversions to and from the layout that ONNX Runtime's convolutions work in, and what a call
    costs around the layer (in ONNX Runtime and in Python), are taken off: inside a network the
    layers before and after share both.
    """

    warnings: tuple[str, ...] = ()
    """Nothing is known against processor time but what the times themselves show."""

    @property
    def machine(self) -> Machine:
        """See `LayerTimer.machine`."""
        return Machine(
            device=processor(),
            compute_capability="",
            backend="onnxruntime",
            backend_version=str(load_onnxruntime().__version__),
            threads=1,
            precision="fp32",
        )

    def time(self, shape: LayerShape) -> LayerTime:
        """See `LayerTimer.time`."""
        times: dict[bool, list[list[float]]] = {False: [], True: []}
        for order in _ORDERS:
            for sparse, taken in zip(order, _time_pair(shape, order), strict=True):
                times[sparse].append(taken)
        return layer_time(times[False], times[True])


def _time_pair(shape: LayerShape, order: tuple[bool, bool]) -> list[list[float]]:
    """Microseconds of the runs of two sessions, in turns."""
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        sessions = [_Session(shape, Path(folder), sparse=sparse) for sparse in order]
        for session in sessions * _WARM_UP:
            session.run()
        start = time.thread_time()
        for turn in range(_MOST):
            if turn >= _LEAST and time.thread_time() - start > _SECONDS:
                break
            for session in sessions:
                session.run()
        return [session.layer_times() for session in sessions]


def _too_large(shape: LayerShape) -> SlsError:
    """Says what memory the activations of a pair of sessions take."""
    values = shape.groups * (shape.read * shape.inputs + shape.written * shape.outputs)
    what = f"{shape} needs {2 * _VALUE * values / 2**30:.3g} GiB, which cannot be had"
    return SlsError(what, "--shape", "Give a smaller one.")


class _Session:
    """A layer that is ready to run."""

    def __init__(self, shape: LayerShape, folder: Path, *, sparse: bool) -> None:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / ("sparse" if sparse else "dense"))
        graph = layer_graph(shape, "fp32", sparse=sparse).SerializeToString()
        self._shape, self._times = shape, list[float]()
        try:
            self._session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            reason = str(error).strip().partition("\n")[0]
            raise SlsError(f"cannot be run by ONNX Runtime ({reason})", str(shape)) from None
        generator = np.random.default_rng(0)
        try:
            self._feeds = {"input": generator.random(input_sizes(shape), np.float32)}
        except (MemoryError, ValueError):  # NumPy raises the second for what no address reaches
            raise _too_large(shape) from None

    def run(self) -> None:
        """Run once, and note the processor time."""
        start = time.thread_time()
        try:
            run_session(self._session, ["output"], self._feeds, str(self._shape))
        except OutOfMemory:
            raise _too_large(self._shape) from None
        self._times.append(1e6 * (time.thread_time() - start))

    def layer_times(self) -> list[float]:
        """Microseconds that the layer took in the runs after the warm-up; ends the session."""
        events = json.loads(Path(self._session.end_profiling()).read_text("utf-8"))
        return own_times(self._times[_WARM_UP:], profiled(events)[_WARM_UP:])


def own_times(times: Sequence[float], runs: Sequence[tuple[float, float]]) -> list[float]:
    """Processor time of a layer in each run whose surroundings no other program fell into.

    What the call costs in Python is the median of what a run as a whole takes more than ONNX
    Runtime says.

    Args:
        times: microseconds of processor time of each run as a whole, at least two.
        runs: the same runs, from `profiled`.

    Returns:
        At least two of them, and a tenth.
    """
    around = [run - layer for run, layer in runs]
    free = statistics.quantiles(around, n=10, method="inclusive")[0]
    most = max(_DISTURBED * free, sorted(around)[1])
    call = max(statistics.median(t - run for t, (run, _) in zip(times, runs, strict=True)), 0.0)
    return [
        max(whole - other - call, _RESOLUTION)
        for whole, other in zip(times, around, strict=True)
        if other <= most
    ]


def profiled(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Microseconds of each run and of the layer in it, by the clock on the wall.

    Args:
        events: ONNX Runtime's profile of a session, the same nodes in every run.
    """
    runs = [float(event["dur"]) for event in events if event["name"] == "model_run"]
    nodes: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["args"].get("op_name") not in _CONVERSIONS:
            nodes[event["name"]].append(float(event["dur"]))
    layer = [sum(times) for times in zip(*nodes.values(), strict=True)]
    return list(zip(runs, layer, strict=True))
