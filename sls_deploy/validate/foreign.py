"""Validation of an ONNX file or an engine that no run made, against a network in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sls_deploy.config import DataConfig, ModelConfig, ValidateConfig
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection
from sls_deploy.export.bisect_foreign import bisect_foreign
from sls_deploy.export.parity import MIN_PARITY_DB
from sls_deploy.files import hash_file
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.models.restoration import COLOURS
from sls_deploy.onnx_file import read_model
from sls_deploy.progress import Report, silent
from sls_deploy.runtime.foreign_onnx import ForeignOnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures
from sls_deploy.runtime.sparsity_gain import known_evidence
from sls_deploy.sizes import padded_side
from sls_deploy.validate.assess import Subject, assess
from sls_deploy.validate.engines import engine_name
from sls_deploy.validate.figures import DENSE, StageId, Validation
from sls_deploy.validate.foreign_crop import ProbeCrop
from sls_deploy.validate.foreign_precision import (
    external_files,
    lowest_precision,
    runnable_here,
    typed,
)
from sls_deploy.validate.forms import Form, Tiling, engine_form, pytorch_form, stages_of
from sls_deploy.validate.gate import BYTES_DB

_SIDE = 64
"""Side of the crop that tells how a file of open sizes takes pictures, in pixels."""


def validate_file(
    onnx: Path | None,
    engine: Path | None,
    model: ModelConfig,
    options: ValidateConfig,
    report: Report = silent,
    *,
    output: str = "",
) -> Validation:
    """Compare an ONNX file, an engine, or both with the network that they were made from.

    How an ONNX file takes and gives pictures is found by trying (`ForeignOnnxRunner`) and told in
    the notes. A file of one input size restores larger pictures in tiles of it, and so does
    PyTorch then. An engine that was built from that very ONNX file is compared with it, too.

    A gate that fails does not raise: see `Validation.passed`.

    Args:
        onnx: an ONNX file of anyone's.
        engine: an engine that `sls-deploy build` wrote, with its manifest beside it.
        model: the network and its weights.
        options: folder of the pictures, and the gates.
        report: receives a report for each picture.
        output: name of the ONNX file's output that is the picture; empty to take the one that fits.

    Raises:
        SlsError: no file, weights or pictures were named, or one of them cannot be used; the file
            cannot take the network's pictures; the engine needs a GPU that is not there.
    """
    if onnx is None and engine is None:
        raise SlsError("no file was named", "--onnx", "Give an ONNX file, or an engine: --engine.")
    if options.pictures is None:
        raise SlsError("no pictures were named", "--data", "Give a folder of pictures.")
    if model.weights is None:
        raise SlsError("no weights were named", "--weights", "Give those of the network.")
    network = load_model(model.weights, model)
    about = network.description
    degradation, paths = choose_degradation(
        DataConfig(), options.pictures, about.scale, about.frames, options.degradation
    )
    truth = TruthFolder(options.pictures, degradation, paths=paths)
    forms = [pytorch_form(network, model.weights)]
    manifest = None if engine is None else verified_manifest(engine)
    found = None if onnx is None else _open_onnx(onnx, network, truth, output)
    forms += [] if found is None else [found.form]
    evidence = {}
    if engine is not None and manifest is not None:
        source = found.form if found and found.form.sha256 == manifest.onnx_sha256 else None
        forms.append(engine_form(engine, manifest, source, DENSE))
        evidence[engine_name(engine)] = known_evidence(engine, manifest)
    tiling = Tiling.of(options.tile, forms)
    subject = Subject(
        stages_of(forms, about, tiling),
        {} if found is None else _bisections(found, forms),
        None,
        {**{form.id.name: form.sha256 for form in forms}, **(found.beside if found else {})},
        tuple(_notes(found)),
    )
    found_out = assess(truth, subject, options, "validate", report, tile=tiling.cut(truth))
    return replace(found_out, evidence=evidence)


@dataclass(frozen=True)
class _Opened:
    """An ONNX file, ready to run."""

    form: Form
    """What it is."""
    runner: ForeignOnnxRunner
    """What runs it."""
    bisect: Callable[[Pictures], Bisection]
    """Compares its values with PyTorch's on one input."""
    beside: Mapping[str, str]
    """SHA-256 of the files beside it that hold weights."""


def _open_onnx(path: Path, network: RestorationModel, truth: TruthFolder, output: str) -> _Opened:
    about, model, name = network.description, read_model(path), f"ONNX {path.name}"
    reference = Padded(TorchRunner(network), about.least_side, about.multiple, about.scale)
    runner = ForeignOnnxRunner(
        path,
        reference,
        COLOURS * about.frames,
        ProbeCrop(truth, padded_side(_SIDE, about.least_side, about.multiple)),
        output=output,
        name=name,
        prepare=runnable_here,
    )
    precision = lowest_precision(model)

    def bisect(degraded: Pictures) -> Bisection:
        limit = MIN_PARITY_DB[precision]
        limit = min(limit, BYTES_DB) if runner.in_bytes else limit
        return bisect_foreign(network, typed(runner.graph), degraded, limit)

    stage = StageId(name, "onnx", precision, runner.in_bytes, previous=DENSE, reference=DENSE)
    beside = {f"{name}, {file.name}": hash_file(file) for file in external_files(path)}
    return _Opened(
        Form(stage, runner, hash_file(path), path, fixed=runner.size), runner, bisect, beside
    )


def _bisections(found: _Opened, forms: list[Form]) -> dict[str, Callable[[Pictures], Bisection]]:
    """Of every form that is or was built from the ONNX file."""
    return {form.id.name: found.bisect for form in forms if form.graph == found.form.graph}


def _notes(found: _Opened | None) -> Iterator[str]:
    """What is to be known of how the ONNX file was run, in sentences."""
    if found is None:
        return
    yield f"{found.form.id.name}: {found.runner.note}."
    if size := found.form.fixed:
        yield (
            f"It takes pictures of {size[1]}x{size[0]} only: for all stages larger ones are cut "
            "into overlapping tiles of that size, and smaller ones filled up by reflection."
        )
