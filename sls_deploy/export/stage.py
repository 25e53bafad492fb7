"""The export stage: from the search's weights to ONNX files that are proved right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sls_deploy._version import __version__
from sls_deploy.config import Config, ExportConfig, Precision
from sls_deploy.data.images import list_images
from sls_deploy.errors import SlsError
from sls_deploy.export.crops import calibration_crops
from sls_deploy.export.files import Files, padded
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.forms import Forms
from sls_deploy.export.graph import to_onnx
from sls_deploy.export.parity import comparison_batches
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.slim import Slim
from sls_deploy.export.proof import check_folded
from sls_deploy.export.results import PROOF, ExportResult, read_result
from sls_deploy.files import hash_file, write_json
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.sizes import padded_side
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS, read_permutation, read_ratios

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def export_onnx(
    run: Run,
    budget: float,
    options: ExportConfig,
    report: Report = silent,
    *,
    permuted: bool = False,
    paranoid: bool = False,
) -> ExportResult:
    """Export a searched budget to ONNX, prove the files' weights and compare their outputs.

    Writes `export/<budget>/model.<precision>.onnx` and `proof.json`, all of them or none; files of
    precisions that are not asked for are removed, since they may be of other weights.

    Args:
        run: the run folder.
        budget: a budget that was searched.
        options: what to write.
        report: told of each step.
        permuted: refuse weights whose masks were chosen without reordering channels.
        paranoid: compare with PyTorch after every pass too.

    Raises:
        SlsError: the budget was not searched; the network cannot be expressed in ONNX or in a
            precision; a weight or an output differs from PyTorch's; ONNX Runtime is not installed.
    """
    source = run.require("search", budget)
    folder = run.folder("export", budget)
    ratios = source / "ratios.json"
    with run.locked():
        found = read_ratios(ratios)
        permutation = read_permutation(source)
        if permuted and permutation is None:
            fix = "Search again with --permute; masks must be chosen in the new order."
            raise SlsError("was searched without reordering channels", str(run.path), fix)
        config = run.config
        refill = options.refill and "refill" in found
        weights = source / (REFILLED if refill else WEIGHTS)
        hashes = {"weights": hash_file(weights), "ratios": hash_file(ratios)}
        wanted = [precision for precision in _PRECISIONS if precision in options.precisions]
        code = code_hash(config.model.name)
        inputs = {
            "version": __version__,
            "options": options.model_dump(
                mode="json", exclude={"precisions", "refill", "calibration"}
            ),
            "precisions": wanted,
            "refilled": refill,
            "code": code,
            "pictures": _pictures(config, options),
            "paranoid": paranoid,
        }
        if found.get("code_sha256", code) != code:
            fix = "Put the code back, or search again."
            raise SlsError("is not the code that was searched", config.model.name, fix)

        def work() -> Iterable[Path]:
            costs = found["refill"] if refill else found
            told = {**found, **{key: costs[key] for key in ("cost", "network_cost")}}
            task = _Task(folder, config, options, wanted, report, f"export {budget_name(budget)}")
            told["source"] = {"file": weights.name, **hashes}
            told["permutation"] = permutation
            return task.run(load_model(weights, config.model), told, paranoid=paranoid)

        key = f"export/{budget_name(budget)}"
        _, skipped = run.stage(key, inputs, work, reads=(weights, ratios))
    return read_result(folder, budget, skipped=skipped)


def _pictures(config: Config, options: ExportConfig) -> dict[str, str]:
    """Hashes of the photographs that precisions are decided on, by name."""
    folder = options.calibration or config.data.photos
    if set(options.precisions) == {"fp32"} or folder is None or not folder.is_dir():
        return {}
    return {str(path.relative_to(folder)): hash_file(path) for path in list_images(folder)}


@dataclass
class _Task:
    """One export, from a model to the files."""

    folder: Path
    config: Config
    options: ExportConfig
    precisions: Sequence[Precision]
    report: Report
    name: str
    done: int = 0

    def run(
        self, model: RestorationModel, ratios: Mapping[str, Any], *, paranoid: bool
    ) -> list[Path]:
        """Write all files, or none; return their paths."""
        self._step()
        about, options = model.description, _fitted(self.options, model.description)
        folded = fold_norms(model)
        state = _state(folded.model)
        check_folded(_state(model), state, folded.layers)
        graph, changes = run_passes(to_onnx(folded.model), [("slim", Slim())])
        batches = comparison_batches(about, options.static_shape)
        # Of the network as it was searched, so that folding is compared as well.
        torch_runner = padded(TorchRunner(model), about)
        files = Files(
            folder=self.folder,
            model=folded.model,
            weights=state,
            layers=ratios["layers"],
            facts=_facts(model, ratios, options),
            batches=batches,
            reference=[torch_runner.run(batch.pictures) for batch in batches],
            in_bytes=options.io == "uint8",
            paranoid=paranoid,
        )
        forms = Forms(
            graph,
            lambda: calibration_crops(
                self.config.data, options.calibration, about, options.calibration_crops
            ),
            options,
            self.report,
        )
        entries: dict[str, Any] = {}
        # Leaving the stack gives the files their names; an error on the way removes them.
        with ExitStack() as held:
            for precision in self.precisions:
                self._step()
                form = forms.of(precision)
                entries[precision] = files.write(held, graph, precision, form)
            proof = {
                "level": "L0",
                **{key: ratios[key] for key in ("budget", "pattern", "cost", "network_cost")},
                "source": ratios["source"],
                "folded_norms": folded.layers,
                "alignment": ratios.get("alignment"),
                "permutation": ratios["permutation"],
                "slim": [asdict(change) for change in changes],
                "files": entries,
            }
            written = write_json(self.folder / PROOF, proof)
        paths = [self.folder / entry["file"] for entry in entries.values()]
        paths += [self.folder / e["uint8"]["file"] for e in entries.values() if "uint8" in e]
        for path in set(self.folder.glob("model.*.onnx")) - set(paths):
            path.unlink()
        self._step()
        return [*paths, written]

    def _step(self) -> None:
        self.report(Progress(self.name, self.done, 1 + len(self.precisions)))
        self.done += 1


def _fitted(options: ExportConfig, about: Description) -> ExportConfig:
    """The settings with the one input size rounded up to what the network takes."""
    if options.static_shape is None:
        return options
    batch, _, *sides = options.static_shape
    height, width = (padded_side(side, about.least_side, about.multiple) for side in sides)
    return options.model_copy(update={"static_shape": (batch, 3 * about.frames, height, width)})


def _facts(
    model: RestorationModel, ratios: Mapping[str, Any], options: ExportConfig
) -> dict[str, str]:
    """What the files say of themselves."""
    about = model.description
    layers = {layer["name"]: f"{layer['kept']}:{layer['of']}" for layer in ratios["layers"]}
    sides = {"least": about.least_side, "multiple": about.multiple}
    return {
        "version": __version__,
        "budget": f"{ratios['budget']:g}",
        "pattern": ratios["pattern"],
        "cost": f"{ratios['cost']:g}",
        "network_cost": f"{ratios['network_cost']:g}",
        "ratios": json.dumps(layers),
        "model": about.to_json(),
        "scale": str(about.scale),
        "range": "0..1, RGB",
        "sides": json.dumps(options.static_shape or sides),
        "weights_sha256": ratios["source"]["weights"],
        "io": "float",
    }


def _state(model: RestorationModel) -> dict[str, NDArray[Any]]:
    """Everything a network computes with, buffers that are not saved included."""
    tensors = {**dict(model.network.named_buffers()), **model.network.state_dict()}
    return {name: tensor.numpy() for name, tensor in tensors.items()}
