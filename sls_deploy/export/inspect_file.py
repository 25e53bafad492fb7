"""What an ONNX file is, whoever wrote it, and where one departs from what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import onnx

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection, bisect_graphs, bisect_pytorch
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.parity import MIN_PARITY_DB, comparison_batches
from sls_deploy.export.results import PROOF
from sls_deploy.export.stored_layers import StoredLayer, stored_layers
from sls_deploy.files import hash_file
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import load_model
from sls_deploy.models.restoration import COLOURS
from sls_deploy.onnx_file import facts, read_model
from sls_deploy.run import Run
from sls_deploy.runtime.exported import graph_file
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS

_AGAIN = "`sls-deploy export` writes it again."
_UNKNOWN: Mapping[str, Any] = {"name": "", "options": {}, "scale": 1, "input_range": 1.0}
"""What is taken for a network of which the file says nothing."""
_LARGEST = 256
"""Largest scale, least side, multiple and number of frames that are taken from a file."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    """Its name."""
    dtype: str
    """Type of its elements, such as 'FLOAT'."""
    shape: tuple[int | str, ...]
    """Size of each axis; the name of one that is open, '?' if it has none."""


@dataclass(frozen=True)
class FileInspection:
    """What an ONNX file is."""

    file: Path
    """Where it lies."""
    sha256: str
    """Of its bytes, without external data."""
    proved: bool
    """Whether a proof.json beside it holds this very hash."""
    opset: int
    """Version of ONNX's operators."""
    inputs: tuple[Port, ...]
    """What the graph takes, without weights."""
    outputs: tuple[Port, ...]
    """What it gives."""
    facts: Mapping[str, str]
    """What `sls-deploy export` wrote of it; empty in files of others."""
    precision: Precision
    """The lowest precision of its layers."""
    layers: tuple[StoredLayer, ...]
    """Its layers, in graph order."""

    @property
    def legal(self) -> int:
        """Number of layers that are 2:4."""
        return sum(layer.legal_2_4 for layer in self.layers)

    @property
    def eligible(self) -> int:
        """Number of layers that an Ampere GPU can run on sparse tensor cores."""
        return sum(layer.eligible for layer in self.layers)


def inspect_file(path: Path) -> FileInspection:
    """Read an ONNX file that may come from anywhere, and say what it is.

    Raises:
        SlsError: `read_model` refuses it, a weight does not fit its operator, or it is not the file
            that the proof.json beside it was written of.
    """
    model = read_model(path)
    proved = check_proved(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    layers = stored_layers(model)
    return FileInspection(
        file=path,
        sha256=hash_file(path),
        proved=proved,
        opset=max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in stored),
        outputs=tuple(_port(value) for value in model.graph.output),
        facts=facts(model),
        precision=_precision(layers),
        layers=layers,
    )


def check_proved(path: Path) -> bool:
    """Compare a file with the proof.json beside it, such as after someone changed a weight.

    Returns:
        Whether there is one that speaks of it.

    Raises:
        SlsError: the file is not the one that was proved, or the proof cannot be read.
    """
    proof = path.parent / PROOF
    if not proof.is_file():
        return False
    hashes = dict(_hashes(_read_proof(proof)["files"]))
    if path.name not in hashes:
        return False
    if hash_file(path) != hashes[path.name]:
        what = "is not the file that was proved: its SHA-256 is not the one in proof.json"
        raise SlsError(what, str(path), _AGAIN)
    return True


def compare_files(reference: Path, other: Path) -> Bisection:
    """Compare two files of one export, value by value, on crops of photographs.

    The limit is that of the lower precision of both.

    Raises:
        SlsError: `inspect_file` refuses one of them, or `bisect_graphs` cannot compare them.
    """
    found = [inspect_file(path) for path in (reference, other)]
    limit = min(MIN_PARITY_DB[item.precision] for item in found)
    about = _description(found[0])
    right, content = (read_model(path).SerializeToString() for path in (reference, other))
    rules = (about.least_side, about.multiple)
    return bisect_graphs(right, content, comparison_batches(about), limit, rules)


def compare_export(run: Run, budget: float, precision: Precision) -> Bisection:
    """Compare a file of a run with the network that it was made from, in PyTorch.

    Args:
        run: the run folder.
        budget: an exported budget.
        precision: which of its files.

    Raises:
        SlsError: that was not exported, or the file is not the one that was proved.
    """
    path = exported_files(run, budget).get(precision)
    if path is None:
        fix = f"`sls-deploy export --budget {budget:g} --precision {precision}` does it."
        raise SlsError(f"budget {budget:g} was not exported in {precision}", str(run.path), fix)
    name = _read_proof(path.parent / PROOF)["source"]["file"]
    weights = run.folder("search", budget) / (REFILLED if name == REFILLED else WEIGHTS)
    model = fold_norms(load_model(weights, run.config.model)).model
    content = read_model(path).SerializeToString()
    return bisect_pytorch(model, content, comparison_batches(model.description), precision)


def exported_files(run: Run, budget: float) -> dict[Precision, Path]:
    """The files of an export, each the one that was proved.

    Raises:
        SlsError: the budget was not exported, or a file is missing, changed or out of date.
    """
    proof = run.folder("export", budget) / PROOF
    found: dict[Precision, Path] = {}
    if budget in run.budgets("export") and proof.is_file():
        for precision in get_args(Precision):
            path = graph_file(proof.parent, precision)
            if path.is_file() and check_proved(path):
                found[precision] = path
    run.require("export", budget)
    return found


def _read_proof(path: Path) -> dict[str, Any]:
    try:
        proof: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _ = proof["files"].values(), proof["source"]["file"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SlsError("is not the proof of an export", str(path), _AGAIN) from None
    return proof


def _hashes(entry: Any) -> Iterator[tuple[str, str]]:
    """Every file that a proof speaks of, with its hash."""
    if not isinstance(entry, dict):
        return
    if "file" in entry and "sha256" in entry:
        yield entry["file"], entry["sha256"]
    for value in entry.values():
        yield from _hashes(value)


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    known = kind.elem_type in onnx.TensorProto.DataType.values()
    sizes = [
        item.dim_value if item.HasField("dim_value") else item.dim_param or "?"
        for item in kind.shape.dim
    ]
    name = onnx.TensorProto.DataType.Name(kind.elem_type) if known else "?"
    return Port(value.name, name, tuple(sizes))


def _precision(layers: tuple[StoredLayer, ...]) -> Precision:
    found = {layer.precision for layer in layers}
    lowest: tuple[Precision, ...] = ("int8", "bf16", "fp16")
    return next((precision for precision in lowest if precision in found), "fp32")


def _description(found: FileInspection) -> Description:
    """What pictures a file takes: by its metadata, or a frame for each three input channels."""
    channels = found.inputs[0].shape[1:2] if found.inputs else ()
    frames = next((size // COLOURS for size in channels if isinstance(size, int)), 1)
    try:
        given = json.loads(found.facts.get("model", "{}"))
        about = Description(**{**_UNKNOWN, "frames": frames, **given})
        rules = (about.scale, about.least_side, about.multiple, about.frames)
        if all(isinstance(rule, int) and 0 < rule <= _LARGEST for rule in rules):
            return about
    except (ValueError, TypeError, RecursionError):
        pass
    raise SlsError("does not say what pictures it takes", str(found.file), _AGAIN)
