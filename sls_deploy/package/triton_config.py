"""The config.pbtxt of one model: written from what it takes and gives, and checked against that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sls_deploy.engine.request import Dimensions, Tensor
from sls_deploy.errors import SlsError
from sls_deploy.package.triton_schema import ENUMS, model_config, read_config, write_config

Backend = Literal["tensorrt", "onnxruntime"]
"""Triton's backend that runs a model."""

PLATFORMS: dict[Backend, str] = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
"""What Triton calls the files of each. Source: its documentation, "Backends"."""
DEFAULT_FILES: dict[Backend, str] = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}
"""File that each backend looks for."""
_ON_CUDA = {"use_tf32": "0"}
"""What ONNX Runtime's CUDA provider is told, by its own names: else it rounds fp32 to ten bits."""
_BACKEND_SETTINGS = {"cudnn_conv_algo_search": "1"}
"""What Triton's ONNX Runtime backend is told: 1 lets cuDNN choose kernels without timing all of
them for every size. Among the provider's settings it would be overwritten by 0, which times them.
Source: onnxruntime.cc in triton-inference-server/onnxruntime_backend."""
DELAY_US = 100
"""Microseconds that a request waits for others, to be run together with them."""

_TYPES = {"FLOAT": "TYPE_FP32", "HALF": "TYPE_FP16", "UINT8": "TYPE_UINT8"}
"""Triton's names of TensorRT's types."""
_KINDS = {"tensorrt": "KIND_GPU", "onnxruntime": "KIND_AUTO"}
"""Where a model runs; ONNX Runtime on the CPU where there is no GPU."""
_GIVE_AGAIN = "Give the command again; if that does not mend it, please report it."


@dataclass(frozen=True)
class Served:
    """A model as Triton is to serve it."""

    name: str
    """Name of the model, and of its folder."""
    backend: Backend
    """What runs it."""
    source: Tensor
    """Its input, as the engine or the graph itself says."""
    target: Tensor
    """Its output."""
    least: Dimensions
    """Smallest input, laid out as the input is."""
    usual: Dimensions
    """Input that is expected most, and warmed up with."""
    most: Dimensions
    """Largest input."""
    file: str = ""
    """Name of its file; the backend's usual one if empty."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Names of files for GPUs of other kinds, by compute capability such as '8.6'."""

    @property
    def max_batch(self) -> int:
        """Most pictures of a batch that Triton may put together; 0 where the model has no batch.

        Triton needs a batch that is the first dimension of input and output, of any size from 1.
        """
        batched = self.source.shape[0] == self.target.shape[0] == -1 and self.least[0] == 1
        return self.most[0] if batched else 0


def render_config(served: Served) -> str:
    """The text of a model's config.pbtxt.

    Source: Triton's "Model Configuration". Requests of one size are put together where the model
    takes several pictures, and one request of zeros goes through before the model is ready. ONNX
    Runtime computes as in our own runners.

    Raises:
        SlsError: the model has tensors of a type that no picture has.
    """
    batch = served.max_batch
    more: dict[str, Any] = {}
    if batch > 1:
        more["dynamic_batching"] = {"max_queue_delay_microseconds": DELAY_US}
        if 1 < served.usual[0] <= batch:
            more["dynamic_batching"]["preferred_batch_size"] = [served.usual[0]]
    if served.backend == "onnxruntime":
        cuda = {"name": "cuda", "parameters": _ON_CUDA}
        more["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
        more["parameters"] = {
            key: {"string_value": value} for key, value in _BACKEND_SETTINGS.items()
        }
    warm_up = {
        "data_type": _type(served.source, served.name),
        "dims": served.usual[1:] if batch else served.usual,
        "zero_data": True,
    }
    config = model_config(
        name=served.name,
        platform=PLATFORMS[served.backend],
        backend=served.backend,
        max_batch_size=batch,
        input=[_tensor(served.source, served)],
        output=[_tensor(served.target, served)],
        instance_group=[{"count": 1, "kind": _KINDS[served.backend]}],
        default_model_filename=served.file,
        cc_model_filenames=dict(served.files),
        model_warmup=[
            {
                "name": "zeros",
                "batch_size": served.usual[0] if batch else 1,
                "inputs": {served.source.name: warm_up},
            }
        ],
        **more,
    )
    return write_config(config)


def check_config(text: str, served: Served, where: str) -> None:
    """See that a config.pbtxt tells Triton what the model itself takes and gives.

    Args:
        text: the file's content.
        served: the model, by its own inputs and outputs.
        where: the file, for the error.

    Raises:
        SlsError: it is no configuration, or differs from the model; says in what.
    """
    config = read_config(text, where)
    most = served.max_batch
    batch = config.max_batch_size
    names = [config.default_model_filename, dict(config.cc_model_filenames)]
    said: list[tuple[str, Any, Any]] = [
        ("name", config.name, served.name),
        ("platform", config.platform, PLATFORMS[served.backend]),
        ("backend", config.backend, served.backend),
        ("files", names, [served.file, dict(served.files)]),
        ("batching", batch > 0, most > 0),
        ("settings", *_settings(config, served.backend)),
        ("input", _shapes(config.input, batch), [_shape(served.source, where)]),
        ("output", _shapes(config.output, batch), [_shape(served.target, where)]),
    ]
    for what, found, wanted in said:
        if found != wanted:
            raise SlsError(f"says {found} as {what}, not {wanted}", where, _GIVE_AGAIN)
    preferred = config.dynamic_batching.preferred_batch_size
    if any(size > most for size in (batch, *preferred)):
        raise SlsError(f"asks for batches above {most}", where, _GIVE_AGAIN)
    for warm_up in config.model_warmup:
        for name, given in warm_up.inputs.items():
            size = (warm_up.batch_size, *given.dims) if batch else tuple(given.dims)
            if not _takes(served, name, size):
                what = f"warms up with {name} {list(size)}, which the model does not take"
                raise SlsError(what, where, _GIVE_AGAIN)


def _settings(config: Any, backend: Backend) -> tuple[Any, Any]:
    """What a configuration tells ONNX Runtime, and what it should."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    found = [{one.name: dict(one.parameters)} for one in accelerators]
    told = {key: value.string_value for key, value in config.parameters.items()}
    if backend == "onnxruntime":
        return (found, told), ([{"cuda": _ON_CUDA}], _BACKEND_SETTINGS)
    return (found, told), ([], {})


def _takes(served: Served, name: str, size: Dimensions) -> bool:
    limits = zip(served.least, size, served.most, strict=False)
    known = name == served.source.name and len(size) == len(served.most)
    return known and all(a <= n <= b for a, n, b in limits)


def _tensor(tensor: Tensor, served: Served) -> dict[str, Any]:
    dims = tensor.shape[1:] if served.max_batch else tensor.shape
    return {"name": tensor.name, "data_type": _type(tensor, served.name), "dims": dims}


def _type(tensor: Tensor, where: str) -> str:
    if tensor.dtype not in _TYPES:
        raise SlsError(f"has a tensor of type {tensor.dtype}, which no picture has", where)
    return _TYPES[tensor.dtype]


def _shape(tensor: Tensor, where: str) -> tuple[str, str, Dimensions]:
    return tensor.name, _type(tensor, where), tensor.shape


def _shapes(tensors: Any, batch: int) -> list[tuple[str, str, Dimensions]]:
    """Name, type and full shape of tensors of a configuration, as Triton understands it."""
    kinds = {number: name for name, number in ENUMS["DataType"].items()}
    return [
        (item.name, kinds.get(item.data_type, "?"), ((-1,) if batch else ()) + tuple(item.dims))
        for item in tensors
    ]
