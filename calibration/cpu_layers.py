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
from sls_deploy.errors import SlsError
from sls_deploy.runtime.bench_result import processor
from sls_deploy.runtime.onnxruntime import load_onnxruntime, run_session

_WARM_UP = 2
_LEAST, _MOST = 15, 100
"""Runs of which the median is taken: as many as take a second, within these."""
_SECONDS = 1.0
_RESOLUTION = 1.0
"""Microseconds that ONNX Runtime's profiler can tell apart: no layer takes less."""
_FATAL = 4
"""ONNX Runtime's log level that prints nothing: its errors arrive as exceptions anyway."""
_CONVERSIONS = ("ReorderInput", "ReorderOutput")
"""Operators that ONNX Runtime puts around a convolution, for the layout it works in."""
_DISTURBED = 2.0
"""A run is left out whose surroundings took so many times as long as in the first decile: another
program had the processor meanwhile."""


class CpuLayers:
    """One session of ONNX Runtime a layer, fp32, one thread.

    With one thread all work is done in the thread that asks for it, so what is taken is that
    thread's processor time: programs that run beside take their share of the wall clock, not of it.
    The conversions to and from the layout that ONNX Runtime's convolutions work in, and what a call
    costs around the layer, are taken off: inside a network the layers before and after share both.
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
        with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
            sessions = [_Session(shape, Path(folder), sparse=sparse) for sparse in (False, True)]
            for session in sessions * _WARM_UP:
                session.run()
            start = time.thread_time()
            for turn in range(_MOST):
                if turn >= _LEAST and time.thread_time() - start > _SECONDS:
                    break
                for session in sessions:
                    session.run()
            dense, sparse = (session.layer_times() for session in sessions)
        return layer_time(dense, sparse)


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
        self._where, self._times = str(shape), list[float]()
        try:
            self._session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            reason = str(error).strip().partition("\n")[0]
            raise SlsError(f"cannot be run by ONNX Runtime ({reason})", self._where) from None
        generator = np.random.default_rng(0)
        self._feeds = {"input": generator.random(input_sizes(shape), np.float32)}

    def run(self) -> None:
        """Run once, and note the processor time."""
        start = time.thread_time()
        run_session(self._session, ["output"], self._feeds, self._where)
        self._times.append(1e6 * (time.thread_time() - start))

    def layer_times(self) -> list[float]:
        """Microseconds that the layer took in the runs after the warm-up; ends the session."""
        events = json.loads(Path(self._session.end_profiling()).read_text("utf-8"))
        return own_times(self._times[_WARM_UP:], times_around(events)[_WARM_UP:])


def own_times(times: Sequence[float], around: Sequence[float]) -> list[float]:
    """Processor time of a layer in each run whose surroundings no other program fell into.

    Args:
        times: microseconds of processor time of each run as a whole.
        around: microseconds on the wall of each run beside its layer.

    Returns:
        At least a tenth of the runs.
    """
    free = statistics.quantiles(around, n=10, method="inclusive")[0]
    return [
        max(whole - other, _RESOLUTION)
        for whole, other in zip(times, around, strict=True)
        if other <= _DISTURBED * free
    ]


def times_around(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Microseconds of each run that its layer did not take, by the clock on the wall.

    Args:
        events: ONNX Runtime's profile of a session, the same nodes in every run.
    """
    runs = [float(event["dur"]) for event in events if event["name"] == "model_run"]
    nodes: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["args"].get("op_name") not in _CONVERSIONS:
            nodes[event["name"]].append(float(event["dur"]))
    layer = [sum(times) for times in zip(*nodes.values(), strict=True)]
    return [run - own for run, own in zip(runs, layer, strict=True)]
