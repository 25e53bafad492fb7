"""Times single layers on the first visible GPU, each in an engine of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import onnx

from sls_deploy.calibration.latency import LayerShape, LayerTime, Machine
from sls_deploy.calibration.layer_graph import input_sizes, layer_graph
from sls_deploy.calibration.layer_timing import layer_time
from sls_deploy.config import Precision
from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import choose_backend
from sls_deploy.engine.device import present_device
from sls_deploy.engine.gpu import capability
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.errors import SlsError
from sls_deploy.runtime.loaded_engine import LoadedEngine, require_cuda

_ORDERS = ((False, True), (True, False)) * 2
"""Pairs of engines, built one after the other: whether the first and the second is 2:4. TensorRT
times kernels anew in every build, so that two engines of one layer may run different ones."""
_ROUNDS, _REPEATS = 6, 20
"""Turns of the engines of a pair, and runs in each turn; of the turns' times the median is taken.
The first turn warms up."""
_TIMEOUT = 300.0
"""Seconds after which the build of one layer is given up."""
_CONVERSION = "Reformatting"
"""What the vendor's names of conversions of layout begin with."""


class GpuLayers:
    """Four pairs of engines a layer, dense and 2:4, timed by the vendor's profiler.

    Conversions of layout are left out: inside a network the layers before and after share it.

    Args:
        backend: 'tensorrt', 'tensorrt_rtx', or 'auto' for the first that serves the GPU.
        precision: of weights and activations: 'fp16' or 'fp32'.

    Raises:
        SlsError: there is no GPU, no backend that serves it, or no PyTorch with CUDA.
    """

    def __init__(self, backend: str = "auto", precision: Precision = "fp16") -> None:
        device = present_device()
        if device is None:
            what = "layers are timed on an NVIDIA GPU, and there is none here"
            fix = (
                "Measure on the machine that the engine is for, or the processor of this one "
                "(--backend onnxruntime); without a table there is an estimate."
            )
            raise SlsError(what, "--backend", fix)
        self._backend = choose_backend(backend, device.architecture)
        require_cuda(self._backend.name)
        self._architecture, self._precision = device.architecture, precision
        self._locked: set[bool | None] = set()
        self.machine = Machine(
            device=device.name,
            compute_capability=capability(device.architecture),
            backend=self._backend.name,
            backend_version=str(self._backend.version),
            threads=0,
            precision=precision,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `LayerTimer.warnings`: what the clocks were while layers were timed."""
        if False in self._locked:
            return (
                "power or heat slowed the GPU down while it was timed: cool it, or hold it at a "
                "lower clock with `sudo nvidia-smi -lgc MHZ`",
            )
        if self._locked and True not in self._locked:
            return (
                "the GPU's clocks are not known to be locked: lock them with `sudo nvidia-smi -lgc "
                "MHZ` and measure again; `sudo nvidia-smi -rgc` lets them go",
            )
        return ()

    def time(self, shape: LayerShape) -> LayerTime:
        """See `LayerTimer.time`."""
        times: dict[bool, list[list[float]]] = {False: [], True: []}
        for order in _ORDERS:
            for sparse, taken in zip(order, self._time_pair(shape, order), strict=True):
                times[sparse].append(taken)
        now = present_device()  # while the GPU is still at the clock that it ran with
        self._locked.add(None if now is None else now.clocks_locked)
        return layer_time(times[False], times[True])

    def _time_pair(self, shape: LayerShape, order: tuple[bool, bool]) -> list[list[float]]:
        """Microseconds of two engines in each turn but the first."""
        plans = [
            build_layer(shape, self._precision, self._backend, self._architecture, sparse=sparse)
            for sparse in order
        ]
        times: list[list[float]] = [[] for _ in plans]
        with ExitStack() as opened:
            engines = [
                opened.enter_context(
                    closing(LoadedEngine(self._backend, plan, str(shape), graphs=False))
                )
                for plan in plans
            ]
            for _ in range(_ROUNDS):
                for engine, taken in zip(engines, times, strict=True):
                    profile = engine.profile(input_sizes(shape), _REPEATS)
                    taken.append(_microseconds(profile, str(shape)))
        return [taken[1:] for taken in times]


def build_layer(
    shape: LayerShape,
    precision: Precision,
    backend: Backend,
    architecture: str,
    *,
    sparse: bool,
) -> bytes:
    """Build the engine of one layer.

    Args:
        shape: the layer.
        precision: of weights and activations.
        backend: what builds it.
        architecture: such as 'sm86'.
        sparse: whether its weights are 2:4.

    Raises:
        SlsError: the layer cannot be timed alone, or the vendor refused it; names the layer.
    """
    size = input_sizes(shape)
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        source, plan = Path(folder, "layer.onnx"), Path(folder, "layer.plan")
        onnx.save(layer_graph(shape, precision, sparse=sparse), source)
        request = BuildRequest(
            backend=backend.name,
            architectures=(architecture,),
            onnx=str(source),
            plan=str(plan),
            input_name="input",
            min_shape=size,
            opt_shape=size,
            max_shape=size,
        )
        try:
            run_worker(request, _TIMEOUT)
        except SlsError as error:
            raise SlsError(error.what, str(shape), error.fix) from None
        return plan.read_bytes()


def _microseconds(profile: Mapping[str, float], where: str) -> float:
    """Time of all but conversions of layout, from milliseconds by the vendor's names."""
    kernels = {name: ms for name, ms in profile.items() if not name.startswith(_CONVERSION)}
    total = 1e3 * sum(kernels.values())
    if total <= 0:
        raise SlsError("the vendor's profiler reported no time", where)
    return total
