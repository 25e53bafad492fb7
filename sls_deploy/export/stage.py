"""The export stage: from the search's weights to ONNX files that are proved right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy._version import __version__
from sls_deploy.calibration.ranges import Peak, measure_peaks
from sls_deploy.config import ExportConfig, Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.graph import OPSET, to_bytes, to_onnx
from sls_deploy.export.parity import compare, comparison_batches, measuring_batches
from sls_deploy.export.passes.float16 import FLOAT16_MAX, Float16, stays_fp32
from sls_deploy.export.passes.metadata import Metadata
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.export.proof import check_folded, prove
from sls_deploy.files import atomic, hash_file, write_json
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Runner
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS, read_ratios

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@dataclass(frozen=True)
class LayerCounts:
    """How many layers of the network are what."""

    total: int
    """Weights that convolutions and matrix products use."""
    pruned: int
    """Pruned by the search."""
    legal_2_4: int
    """At most 2 nonzeros in every 4 consecutive input channels, in every exported precision."""
    eligible: int
    """Also of a form that an Ampere GPU can run on sparse tensor cores."""


@dataclass(frozen=True)
class ExportResult:
    """What an export left in the run folder."""

    budget: float
    """The budget exported."""
    files: Mapping[Precision, Path]
    """The ONNX file of each precision."""
    proof: Path
    """The evidence: per layer, per precision."""
    parity_db: Mapping[Precision, float]
    """PSNR of ONNX Runtime to PyTorch on crops of photographs, in dB."""
    rounded_db: Mapping[Precision, float]
    """The same for fp16 with every activation rounded to fp16, which ONNX Runtime leaves out."""
    layers: LayerCounts
    """Summary of the proof."""
    cost: float
    """Cost of the exported weights, as a share of the prunable layers' dense cost."""
    refilled: bool
    """Whether layers below N = M/2 were filled up to M/2: they cost more by some models."""
    skipped: bool
    """Whether all of it stood already."""


def export_onnx(
    run: Run, budget: float, options: ExportConfig, report: Report = silent
) -> ExportResult:
    """Export a searched budget to ONNX, prove the files' weights and compare their outputs.

    Writes `export/<budget>/model.<precision>.onnx` and `proof.json`, all of them or none; files of
    precisions that are not asked for are removed, since they may be of other weights.

    Args:
        run: the run folder.
        budget: a budget that was searched.
        options: the precisions to write.
        report: told of each step.

    Raises:
        SlsError: the budget was not searched; the network cannot be expressed in ONNX or in fp16;
            a weight or an output differs from PyTorch's; ONNX Runtime is not installed.
    """
    source = run.require("search", budget)
    folder = run.folder("export", budget)
    ratios = source / "ratios.json"
    with run.locked():
        found = read_ratios(ratios)
        refill = options.refill and "refill" in found
        weights = source / (REFILLED if refill else WEIGHTS)
        hashes = {"weights": hash_file(weights), "ratios": hash_file(ratios)}
        wanted = [precision for precision in _PRECISIONS if precision in options.precisions]
        inputs = {"version": __version__, "precisions": wanted, "refilled": refill}
        inputs["code"] = code = code_hash(run.config.model.name)
        if found.get("code_sha256", code) != code:
            fix = "Put the code back, or search again."
            raise SlsError("is not the code that was searched", run.config.model.name, fix)

        def work() -> Iterable[Path]:
            task = _Task(folder, wanted, report, f"export {budget_name(budget)}", weights.name)
            costs = found["refill"] if refill else found
            told = {**found, **{key: costs[key] for key in ("cost", "network_cost")}}
            return task.run(load_model(weights, run.config.model), told, hashes)

        key = f"export/{budget_name(budget)}"
        _, skipped = run.stage(key, inputs, work, reads=(weights, ratios))
    return _result(folder, budget, skipped=skipped)


class _Task:
    """One export, from a model to the files."""

    def __init__(
        self,
        folder: Path,
        precisions: Sequence[Precision],
        report: Report,
        name: str,
        source: str,
    ) -> None:
        self._folder, self._precisions, self._source = folder, precisions, source
        self._report, self._name, self._done = report, name, 0

    def run(
        self, model: RestorationModel, ratios: Mapping[str, Any], hashes: Mapping[str, str]
    ) -> list[Path]:
        """Write all files, or none; return their paths."""
        self._step()
        about = model.description
        folded = fold_norms(model)
        state = _state(folded.model)
        check_folded(_state(model), state, folded.layers)
        graph = to_onnx(folded.model)
        headroom = None
        if "fp16" in self._precisions:
            self._step()
            headroom = _headroom(graph, about)
        batches = comparison_batches(about)
        # Of the network as it was searched, so that folding is compared as well.
        torch_runner = _padded(TorchRunner(model), about)
        reference = [torch_runner.run(batch.pictures) for batch in batches]
        facts = _facts(model, ratios, hashes["weights"])
        files: dict[str, Any] = {}
        # Leaving the stack gives the files their names; an error on the way removes them.
        with ExitStack() as stack:
            for precision in self._precisions:
                self._step()
                path = self._folder / f"model.{precision}.onnx"
                temporary = stack.enter_context(atomic(path))
                temporary.write_bytes(_serialise(graph, precision, facts))
                layers = prove(temporary, state, ratios["layers"])
                content = temporary.read_bytes()
                parity = compare(reference, _run(content, about), batches, precision)
                rounded = None
                if precision == "fp16":
                    runner = _run(_round(content), about)
                    rounded = compare(reference, runner, batches, precision)
                files[precision] = {
                    "file": path.name,
                    "sha256": hash_file(temporary),
                    "parity": asdict(parity),
                    "parity_rounded": rounded and asdict(rounded),
                    "layers": [asdict(layer) for layer in layers],
                }
            proof = {
                "level": "L0",
                "budget": ratios["budget"],
                "pattern": ratios["pattern"],
                "cost": ratios["cost"],
                "network_cost": ratios["network_cost"],
                "opset": OPSET,
                "source": {"file": self._source, **hashes},
                "folded_norms": folded.layers,
                "headroom": headroom,
                "files": files,
            }
            written = write_json(self._folder / "proof.json", proof)
        for precision in set(_PRECISIONS) - set(self._precisions):
            (self._folder / f"model.{precision}.onnx").unlink(missing_ok=True)
        self._step()
        return [*(self._folder / entry["file"] for entry in files.values()), written]

    def _step(self) -> None:
        total = 1 + len(self._precisions) + ("fp16" in self._precisions)
        self._report(Progress(self._name, self._done, total))
        self._done += 1


def _serialise(graph: ir.Model, precision: Precision, facts: Mapping[str, str]) -> bytes:
    copy = graph.clone()
    if precision == "fp16":
        copy = Float16()(copy).model
    return to_bytes(Metadata({**facts, "precision": precision})(copy).model)


def _round(content: bytes) -> bytes:
    """The same graph with every activation rounded to fp16, as on a GPU."""
    return to_bytes(RoundedFloat32()(ir.from_proto(onnx.load_from_string(content))).model)


def _facts(model: RestorationModel, ratios: Mapping[str, Any], weights: str) -> dict[str, str]:
    """What the files say of themselves."""
    return {
        "version": __version__,
        "budget": f"{ratios['budget']:g}",
        "pattern": ratios["pattern"],
        "cost": f"{ratios['cost']:g}",
        "network_cost": f"{ratios['network_cost']:g}",
        "model": model.description.to_json(),
        "weights_sha256": weights,
    }


def _state(model: RestorationModel) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}


def _run(content: bytes, about: Description) -> Padded:
    return _padded(OnnxRunner(content), about)


def _padded(runner: Runner, about: Description) -> Padded:
    return Padded(runner, about.least_side, about.multiple, about.scale)


def _headroom(graph: ir.Model, about: Description) -> dict[str, Any]:
    """The largest activation on photographs, which fp16 must be able to hold."""
    pictures = (batch.pictures for batch in measuring_batches(about))
    kept = stays_fp32(graph)
    peaks = [peak for peak in measure_peaks(to_bytes(graph), pictures) if peak.node not in kept]
    for peak in peaks:
        if not peak.largest <= FLOAT16_MAX:  # also NaN
            what = f"reaches {peak.largest:g} on photographs, beyond the {FLOAT16_MAX:g} of fp16"
            raise SlsError(what, peak.node, "Export it in fp32 only: --precision fp32.")
    top = max(peaks, key=lambda peak: peak.largest, default=Peak("", "", 0.0))
    return {**asdict(top), "limit": FLOAT16_MAX}


def _result(folder: Path, budget: float, *, skipped: bool) -> ExportResult:
    path = folder / "proof.json"
    proof = json.loads(path.read_text("utf-8"))
    files = proof["files"]
    layers = [entry["layers"] for entry in files.values()]

    def count(key: str) -> int:
        return sum(all(layer[key] for layer in same) for same in zip(*layers, strict=True))

    return ExportResult(
        budget=budget,
        files={precision: folder / entry["file"] for precision, entry in files.items()},
        proof=path,
        parity_db={precision: entry["parity"]["psnr_db"] for precision, entry in files.items()},
        rounded_db={
            precision: entry["parity_rounded"]["psnr_db"]
            for precision, entry in files.items()
            if entry["parity_rounded"]
        },
        cost=proof["cost"],
        layers=LayerCounts(len(layers[0]), count("pruned"), count("legal_2_4"), count("eligible")),
        refilled=proof["source"]["file"] == REFILLED,
        skipped=skipped,
    )
