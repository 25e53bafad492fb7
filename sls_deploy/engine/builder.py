"""Builds one engine with the vendor's API; the same calls serve both backends and all versions.

Runs in a worker process only: a failed build can change the next error of its process.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.request import BuildAnswer, BuildOptions, BuildRequest, Tensor
from sls_deploy.engine.timing_cache import keep_timing_cache, use_timing_cache
from sls_deploy.engine.vendor_log import VendorLog, first_cause
from sls_deploy.errors import SlsError

if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig, ITensor, OnnxParser

_COMPATIBILITY = {"none": "NONE", "same": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}


def build_engine(backend: Backend, request: BuildRequest) -> BuildAnswer:
    """Parse the graph, build the engine and write it to `request.plan`.

    Returns:
        The answer with an `error` if the vendor refused; then nothing is written.
    """
    trt: Any = importlib.import_module(backend.name)
    log = VendorLog(trt, echo=sys.stderr)
    try:
        builder: Builder = trt.Builder(log.logger)
    except TypeError:  # there is none, for a reason that only the log knows, such as an old driver
        return _failed(log, log.first_error())
    # In TensorRT 11 every network is strongly typed; before it, the flag asks for that.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser: OnnxParser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(request.onnx):
        return _failed(log, _parser_error(parser, log))
    config = builder.create_builder_config()
    _set_options(trt, config, request.options)
    backend.aim(trt, config, request.architectures)
    profile = builder.create_optimization_profile()
    profile.set_shape(request.input_name, request.min_shape, request.opt_shape, request.max_shape)
    config.add_optimization_profile(profile)
    times = Path(request.options.timing_cache)
    cache = use_timing_cache(config, times) if request.options.timing_cache else None
    log.errors.clear()  # a cache of another machine is refused aloud, and that is no failure
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return _failed(log, log.first_error())
    Path(request.plan).write_bytes(plan)
    if cache is not None:
        try:
            keep_timing_cache(config, cache, times)
        except (OSError, SlsError) as error:
            log.warnings.append(f"the times of kernels were not kept: {error}")
    return BuildAnswer(
        warnings=tuple(log.warnings),
        sparsity_log=tuple(log.sparsity),
        inputs=tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs)),
    )


def _set_options(trt: Any, config: IBuilderConfig, options: BuildOptions) -> None:
    """Tell the builder what it is told whatever the graph."""
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    # On by default; it would round fp32 to 10 bits, which no fp32 parity gate can pass.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.aux_streams is not None:
        config.max_aux_streams = options.aux_streams
    if options.hardware_compatibility != "none":
        level = _COMPATIBILITY[options.hardware_compatibility]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _failed(log: VendorLog, error: str) -> BuildAnswer:
    return BuildAnswer(error=error, warnings=tuple(log.warnings))


def _parser_error(parser: OnnxParser, log: VendorLog) -> str:
    if parser.num_errors == 0:
        return log.first_error()
    error = parser.get_error(0)
    reason = first_cause(error.desc()) or log.first_error()
    node = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_name() else ""
    return node + reason


def _tensor(tensor: ITensor) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(tensor.shape))
