"""Measures the table of layer times on the GPU of this machine, one small engine a layer."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.calibration.latency import LatencyRow, LatencyTable, LayerShape
from sls_deploy.config import Precision
from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import choose_backend
from sls_deploy.engine.gpu import capability, gpu_architecture
from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildRequest
from sls_deploy.engine.vendor_log import VendorLog
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report, silent

_WARM_UP, _REPEATS = 10, 50
"""Runs before the first that counts, and runs of which the median is taken."""
_TIMEOUT = 300.0
"""Seconds after which the build of one layer is given up."""
_TYPES = {"fp16": (TensorProto.FLOAT16, np.float16), "fp32": (TensorProto.FLOAT, np.float32)}


def measure_table(
    shapes: Iterable[LayerShape],
    picture: tuple[int, int],
    precision: Precision = "fp16",
    backend: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto",
    report: Report = silent,
) -> LatencyTable:
    """Time layers with dense and with 2:4 weights on the first visible GPU.

    Args:
        shapes: two-dimensional convolutions; each is measured once.
        picture: height and width of the picture that their sizes belong to, in pixels.
        precision: of weights and activations.
        backend: what builds and runs the engines.
        report: receives one report for each layer, and one at the end.

    Raises:
        SlsError: there is no GPU, no backend that serves it, no PyTorch with CUDA, or a layer
            that is no convolution or cannot be built.
    """
    wanted = list(dict.fromkeys(shapes))
    for shape in wanted:
        if shape.kind != "Conv2d" or len(shape.kernel) != 2:
            raise SlsError("only two-dimensional convolutions are measured", str(shape))
    architecture = gpu_architecture()
    if architecture is None:
        fix = "Measure on the machine that the engine is for; without a table there is an estimate."
        raise SlsError("layers are timed on an NVIDIA GPU, and there is none here", "", fix)
    chosen = choose_backend(backend, architecture)
    torch = _load_torch()
    rows = []
    for number, shape in enumerate(wanted):
        report(Progress("latency table", number, len(wanted)))
        dense, sparse = (
            _time_layer(shape, precision, chosen, architecture, sparse=sparse)
            for sparse in (False, True)
        )
        rows.append(LatencyRow(**vars(shape), dense_us=dense, sparse_us=sparse))
    report(Progress("latency table", len(wanted), len(wanted)))
    return LatencyTable(
        version=1,
        gpu=torch.cuda.get_device_name(0),
        compute_capability=capability(architecture),
        backend=chosen.name,
        backend_version=str(chosen.version),
        precision=precision,
        height=picture[0],
        width=picture[1],
        rows=tuple(rows),
    )


def layer_graph(shape: LayerShape, precision: Precision, *, sparse: bool) -> onnx.ModelProto:
    """A network of this one convolution, with random weights, that keeps height and width.

    Args:
        shape: the layer.
        precision: of weights, activations, input and output.
        sparse: zero two of every four consecutive input channels.
    """
    element, dtype = _TYPES[precision]
    inputs, outputs = shape.inputs * shape.groups, shape.outputs * shape.groups
    weight = np.random.default_rng(0).standard_normal((outputs, shape.inputs, *shape.kernel))
    if sparse:
        weight[:, 2::4] = weight[:, 3::4] = 0
    tensors = [
        numpy_helper.from_array(weight.astype(dtype), "weight"),
        numpy_helper.from_array(np.zeros(outputs, dtype), "bias"),
    ]
    values = [
        helper.make_tensor_value_info(name, element, [1, channels, shape.height, shape.width])
        for name, channels in (("input", inputs), ("output", outputs))
    ]
    node = helper.make_node(
        "Conv",
        ["input", "weight", "bias"],
        ["output"],
        "layer",
        group=shape.groups,
        auto_pad="SAME_UPPER",
    )
    graph = helper.make_graph([node], "one_layer", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


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
        SlsError: the vendor refused it; names the layer.
    """
    size = (1, shape.inputs * shape.groups, shape.height, shape.width)
    with tempfile.TemporaryDirectory(prefix="sls-deploy-") as folder:
        source, plan = Path(folder, "layer.onnx"), Path(folder, "layer.plan")
        onnx.save(layer_graph(shape, precision, sparse=sparse), source)
        request = BuildRequest(
            backend=backend.name,
            architectures=(architecture,),
            onnx=str(source),
            plan=str(plan),
            answer="",
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


def _time_layer(
    shape: LayerShape, precision: Precision, backend: Backend, architecture: str, *, sparse: bool
) -> float:
    """Median microseconds of a layer's kernel, as the vendor's profiler reports them.

    What converts the layout of input and output is left out: inside a network the layers before
    and after share the layout.
    """
    torch = _load_torch()
    trt: Any = backend.load()
    plan = build_layer(shape, precision, backend, architecture, sparse=sparse)
    log = VendorLog(trt)
    runtime = trt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise SlsError(f"cannot be loaded: {log.first_error()}", str(shape))
    profiler = make_profiler(trt)
    context.profiler = profiler
    dtype = torch.float16 if precision == "fp16" else torch.float32
    times: list[float] = []
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        buffers = {
            name: torch.rand(tuple(engine.get_tensor_shape(name)), dtype=dtype, device="cuda")
            for name in ("input", "output")
        }
        for name, buffer in buffers.items():
            context.set_tensor_address(name, buffer.data_ptr())
        for _ in range(_WARM_UP + _REPEATS):
            profiler.milliseconds = 0.0
            if not context.execute_async_v3(stream.cuda_stream):
                raise SlsError(f"failed to run: {log.first_error()}", str(shape))
            stream.synchronize()
            times.append(profiler.milliseconds)
    median = statistics.median(times[_WARM_UP:]) * 1e3
    if median <= 0:
        raise SlsError("the vendor's profiler reported no time", str(shape))
    return median


def make_profiler(trt: Any) -> Any:
    """A profiler that adds up the milliseconds of all but conversions of layout."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds = 0.0

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if not layer_name.startswith("Reformatting"):
                self.milliseconds += ms

    return Profiler()


def _load_torch() -> Any:
    import torch

    if not torch.cuda.is_available():
        fix = "Install a PyTorch with CUDA support from pytorch.org."
        raise SlsError("needs a PyTorch that sees the GPU, and this one does not", "", fix)
    return torch
