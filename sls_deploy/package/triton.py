"""A model repository for NVIDIA's Triton Inference Server: one model for each budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from sls_deploy._version import __version__
from sls_deploy.adapt.adaptation import ESTIMATOR, FILE, KEY, read_adaptation
from sls_deploy.engine.gpu import capability
from sls_deploy.engine.graph import fit_shapes, laid_out
from sls_deploy.engine.request import Tensor
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file, slug
from sls_deploy.onnx_file import read_model
from sls_deploy.package.assembly import CHECKSUMS, Assembly
from sls_deploy.package.contents import Contents, Engine
from sls_deploy.package.folder import README, network_name, pictures_taken
from sls_deploy.package.triton_config import DEFAULT_FILES, Served, check_config, render_config
from sls_deploy.run import Run, budget_name

CONFIG = "config.pbtxt"
ENGINES = ("tensorrt",)
"""Backends whose engines Triton's TensorRT backend loads: the library that it is linked with."""
_VERSION = "1"
"""Folder of a model's files: the version that Triton serves."""
_ESTIMATOR_BATCH = 64
"""Most tiles that the estimator is given at once: it is far cheaper than any network."""
_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.UINT8: "UINT8",
}
"""TensorRT's names of ONNX's types."""
_NOT_BY_ONNX = {
    "bf16": "ONNX Runtime runs no bf16 convolutions",
    "int8": "ONNX Runtime needs a setting for int8 graphs that Triton does not pass on",
}


@dataclass(frozen=True)
class Repository:
    """What a repository was made of."""

    engines: dict[float, tuple[str, ...]]
    """Engines that serve each budget, by their names in the run; none where ONNX Runtime does."""
    left_out: dict[str, str]
    """What is not in it, and why."""


@dataclass(frozen=True)
class _Model:
    """A model, and where its files come from."""

    served: Served
    """What Triton is told."""
    engines: tuple[str, ...]
    """Engines among its files, by their names in the run."""
    files: tuple[tuple[Path, str, str], ...]
    """Source, path in the model's folder, and SHA-256 of each file; '' where it is not known."""


def write_repository(run: Run, all_contents: Sequence[Contents], assembly: Assembly) -> Repository:
    """Put a model for each budget into a package, and the estimator of adaptive inference.

    A budget is served by its engines of `tensorrt`. Without one it is served as ONNX by Triton's
    ONNX Runtime backend: engines of `tensorrt_rtx` belong to another library than the one that
    Triton's TensorRT backend is linked with.

    Args:
        run: where they come from.
        all_contents: what is packed of each budget.
        assembly: the package; its root is the repository's.

    Raises:
        SlsError: Triton cannot serve a budget, its configuration differs from what the model
            takes, a file changed meanwhile, or the disk is full.
    """
    left_out: dict[str, str] = {}
    engines: dict[float, tuple[str, ...]] = {}
    lines = []
    for contents in all_contents:
        name = model_name(run, budget_name(contents.budget))
        model, missing = _network(run, contents, name)
        left_out |= {f"{budget_name(contents.budget)}/{key}": why for key, why in missing.items()}
        _write_model(model, assembly)
        engines[contents.budget] = model.engines
        lines.append(f"- `{name}`: {network_name(contents)}. {pictures_taken(contents)}")
    try:
        estimator = _estimator(run)
    except SlsError as error:
        left_out["estimator"] = error.what
    else:
        _write_model(estimator, assembly)
        lines.append(
            f"- `{estimator.served.name}`: estimates, for a batch of tiles, the natural logarithm "
            f"of the MSE of each candidate of {FILE}."
        )
    text = _readme(run, lines, left_out, with_engines=any(engines.values()))
    assembly.write(README, "\n".join(text) + "\n")
    return Repository(engines, left_out)


def model_name(run: Run, part: str) -> str:
    """What Triton calls a part of a run, such as 'rlfn-b0-50'."""
    return f"{slug(run.path.resolve().name) or 'network'}-{slug(part)}"


def _write_model(model: _Model, assembly: Assembly) -> None:
    served = model.served
    path = f"{served.name}/{CONFIG}"
    assembly.write(path, render_config(served))
    written = (assembly.folder / path).read_text("utf-8")
    check_config(written, served, path)
    for source, name, digest in model.files:
        assembly.copy(source, f"{served.name}/{name}", digest)


def _network(run: Run, contents: Contents, name: str) -> tuple[_Model, dict[str, str]]:
    """How a budget is served, and which of its engines are not."""
    left_out = dict(contents.left_out)
    engines: list[Engine] = []
    for engine in contents.engines:
        known = engine.manifest
        if known.backend not in ENGINES:
            left_out[engine.plan.name] = (
                f"Triton's TensorRT backend does not load engines of {known.backend}"
            )
        elif engines and _form(engine) != _form(engines[0]):
            left_out[engine.plan.name] = f"takes other sizes than {engines[0].plan.name}"
        else:
            engines.append(engine)
    if engines:
        return _of_engines(contents, engines, name), left_out
    if contents.precision in _NOT_BY_ONNX:
        what = f"has no engine of tensorrt for Triton, and {_NOT_BY_ONNX[contents.precision]}"
        fix = "Name another precision with --precision, or build an engine of tensorrt."
        raise SlsError(f"budget {contents.budget:g} {what}", str(run.path), fix)
    left_out["engine"] = "Triton serves the graph by ONNX Runtime: there is no engine of tensorrt"
    return _of_graph(run, contents, name), left_out


def _form(engine: Engine) -> object:
    known = engine.manifest
    return known.inputs, known.outputs, known.min_shape, known.opt_shape, known.max_shape


def _of_engines(contents: Contents, engines: Sequence[Engine], name: str) -> _Model:
    """Engines of one form, each for GPUs of its own kind."""
    known = engines[0].manifest
    only = len(engines) == 1
    least, usual, most = (
        laid_out(contents.graph.model, shape)
        for shape in (known.min_shape, known.opt_shape, known.max_shape)
    )
    wide = [one for one in engines if one.manifest.options.hardware_compatibility == "ampere+"]
    served = Served(
        name=name,
        backend="tensorrt",
        source=known.inputs[0],
        target=known.outputs[0],
        least=least,
        usual=usual,
        most=most,
        file=wide[0].plan.name if wide and not only else "",
        files={}
        if only
        else {capability(one.manifest.architecture): one.plan.name for one in engines},
    )
    files: list[tuple[Path, str, str]] = []
    for engine in engines:
        plan = engine.plan
        file = DEFAULT_FILES["tensorrt"] if only else plan.name
        files.append((plan, f"{_VERSION}/{file}", engine.manifest.plan_sha256))
        files.append((plan.with_suffix(".json"), plan.with_suffix(".json").name, ""))
    return _Model(served, tuple(engine.plan.name for engine in engines), tuple(files))


def _of_graph(run: Run, contents: Contents, name: str) -> _Model:
    graph = contents.graph.model
    sizes = fit_shapes(graph, run.config.build)
    least, usual, most = (
        laid_out(graph, shape) for shape in (sizes.min_shape, sizes.opt_shape, sizes.max_shape)
    )
    source, target = _tensors(graph, str(contents.graph.path))
    served = Served(name, "onnxruntime", source, target, least, usual, most)
    file = f"{_VERSION}/{DEFAULT_FILES['onnxruntime']}"
    return _Model(served, (), ((contents.graph.path, file, contents.graph_sha256),))


def _estimator(run: Run) -> _Model:
    """The estimator of adaptive inference, served by ONNX Runtime.

    Raises:
        SlsError: the run was not adapted, or that no longer holds.
    """
    adaptation = read_adaptation(run)
    folder = run.path / KEY
    path = folder / ESTIMATOR
    source, target = _tensors(read_model(path), str(path))
    channels, tile = 3 * adaptation.frames, adaptation.tile
    served = Served(
        name=model_name(run, "estimator"),
        backend="onnxruntime",
        source=source,
        target=target,
        least=(1, channels, 16, 16),
        usual=(1, channels, tile, tile),
        most=(_ESTIMATOR_BATCH, channels, tile, tile),
    )
    file = f"{_VERSION}/{DEFAULT_FILES['onnxruntime']}"
    return _Model(served, (), ((path, file, hash_file(path)), (folder / FILE, FILE, "")))


def _tensors(model: onnx.ModelProto, where: str) -> tuple[Tensor, Tensor]:
    """The one input and the one output of a graph.

    Raises:
        SlsError: it has others, or one of a type that no picture has.
    """
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise SlsError("has not one input and one output", where)
    return _tensor(model.graph.input[0], where), _tensor(model.graph.output[0], where)


def _tensor(value: onnx.ValueInfoProto, where: str) -> Tensor:
    form = value.type.tensor_type
    if form.elem_type not in _TYPES:
        raise SlsError(f"has a tensor '{value.name}' of a type that no picture has", where)
    shape = tuple(int(size.dim_value) or -1 for size in form.shape.dim)
    return Tensor(value.name, _TYPES[form.elem_type], shape)


def _readme(
    run: Run, lines: Sequence[str], left_out: dict[str, str], *, with_engines: bool
) -> Iterator[str]:
    yield f"# Models of the run {run.path.resolve().name} for Triton"
    yield ""
    yield f"Packed by sls-deploy {__version__}. This folder is a model repository:"
    yield ""
    yield "```sh"
    yield f"sha256sum -c {CHECKSUMS}"
    yield "tritonserver --model-repository=."
    yield "```"
    yield ""
    yield from lines
    if with_engines:
        yield ""
        yield (
            "An engine needs a Triton with the version of TensorRT, and a GPU of the kind, that "
            "its manifest beside config.pbtxt names."
        )
    if left_out:
        yield ""
        yield "Not in this repository:"
        yield ""
    for name, why in left_out.items():
        yield f"- {name}: {why}"
