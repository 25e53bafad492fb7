"""What precisions and the order of channels do to pruned networks: tables of docs/precisions.md.

Every part of every network is one JSON file; a run does those that are not there yet, through the
real stages.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer
from precision_tables import make_tables

from sls_deploy.calibration.clipping import RangeMethod
from sls_deploy.config import Config, ExportConfig, Precision
from sls_deploy.config_file import merge_config
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.stage import build_engines
from sls_deploy.errors import SlsError
from sls_deploy.export.crops import calibration_crops
from sls_deploy.export.files import padded
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.forms import Forms
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.rounding import rounded
from sls_deploy.export.passes.slim import Slim
from sls_deploy.export.results import PROOF
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import write_json
from sls_deploy.models.architecture import Description
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.progress import silent
from sls_deploy.run import Run, budget_name, versions
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Runner
from sls_deploy.search.interiors import find_interiors
from sls_deploy.search.layers import find_layers
from sls_deploy.search.outcome import RATIOS
from sls_deploy.search.stage import search_budgets
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ratios import WEIGHTS, read_permutation, read_ratios
from sls_deploy.validate.figures import StageId
from sls_deploy.validate.measure import Stage, measure, summarise

BUDGET = 0.5
SETS = ("Set5", "Set14", "B100")
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_UNLIMITED_DB = 1e6
"""Loss that every network holds: nothing falls back."""
VARIANTS: dict[str, tuple[Precision, dict[str, Any]]] = {
    precision: (precision, {}) for precision in _PRECISIONS
} | {
    f"int8, {method}, no fallback": ("int8", {"int8_ranges": method, "int8_loss_db": _UNLIMITED_DB})
    for method in get_args(RangeMethod)
}
"""What accuracy is measured of: a precision, and the settings that differ from the defaults."""


@dataclass(frozen=True)
class Entry:
    """One network of the tables."""

    title: str
    """What the tables call it."""
    weights: str
    """File of the dense weights, in the folder of the weights; empty for the bundled one."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings that differ from the benchmark's."""
    parts: tuple[str, ...] = ("parity", "permutation")
    """Tables that it stands in."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """What accuracy is measured of."""


_ALL = ("parity", "permutation", "order", "accuracy")
_BLUR = {"search": {"patch": 64}}
"""Blur needs larger crops."""
ENTRIES = {
    "rfdn": Entry("RFDN x4", "rfdn_aim_x4.pth", parts=_ALL),
    "rlfn": Entry("RLFN-S x4", "rlfn_s_x4.pth", {}, _ALL, _PRECISIONS),
    "carn": Entry("CARN-M x4", "carn_m_x234.pth", {"model": {"scale": 4}}, parts=_ALL[:3]),
    "edsr": Entry("EDSR x2, 32 channels, bundled", ""),
    "unet": Entry("UNet, 16 features, trained for minutes", "unet.safetensors", _BLUR),
    "srn": Entry("SRN, 16 features, trained for minutes", "srn.safetensors", _BLUR),
    "dmphn": Entry(
        "DMPHN 1-2-4-8",
        "dmphn_1_2_4_8_gopro.pth",
        # As in networks.py: short blur and noise reach most of what GoPro's pictures reach.
        {"data": {"blur_length": 10.0, "blur_noise": 2.0}, "search": {"patch": 64, "crops": 96}},
    ),
}
"""The networks, in the order of the tables."""


@dataclass(frozen=True)
class Network:
    """One network on its way through the tables."""

    config: Config
    """All settings."""
    runs: Path
    """Where its run folders lie."""
    name: str
    """Of `ENTRIES`."""
    pictures: Path
    """Holds `SETS`."""

    def searched(self, *, permute: bool = True) -> Run:
        """Its run at the budget, pruned with or without reordering channels."""
        config = merge_config(self.config, {"search": {"permute": permute}})
        folder = self.runs / (self.name if permute else f"{self.name}-in-order")
        search_budgets(config, folder)
        return Run.open(folder)

    def dense(self) -> RestorationModel:
        """The dense network."""
        assert self.config.model.weights is not None  # noqa: S101 - every entry names its weights
        return load_model(self.config.model.weights, self.config.model)


def parity(network: Network) -> dict[str, Any]:
    """Export all precisions through the stages, with an engine of each."""
    run = network.searched()
    seconds = {}
    for name, precisions in {"default": ("fp32", "fp16"), "all": _PRECISIONS}.items():
        result = export_onnx(run, BUDGET, ExportConfig(precisions=precisions))
        seconds[name] = run.manifest[f"export/{budget_name(BUDGET)}"].seconds
    files = json.loads((run.folder("export", BUDGET) / PROOF).read_text("utf-8"))["files"]
    rows = {}
    for precision, found in result.precisions.items():
        entry = files[precision]
        rows[precision] = {
            "parity": entry["parity"],
            "rounded": entry.get("parity_rounded"),
            "loss_db": found.loss_db,
            "kept": dict(found.kept),
            "bytes": entry["bytes"],
            **_engine(run, network.config, precision),
        }
    counts = result.layers
    return {
        "layers": {
            "total": counts.total,
            "pruned": counts.pruned,
            "eligible": counts.eligible,
            "narrowed": _narrowed(run, network.dense()),
        },
        "seconds": seconds,
        "files": rows,
    }


def _narrowed(run: Run, dense: RestorationModel) -> int:
    """Layers that lost channels."""
    before = dense.network.state_dict()
    layers = read_ratios(run.folder("search", BUDGET) / RATIOS)["layers"]
    pairs = ((layer["width"], before.get(f"{layer['name']}.weight")) for layer in layers)
    return sum(
        weight is not None and any(new < old for new, old in zip(width, weight.shape, strict=False))
        for width, weight in pairs
    )


def _engine(run: Run, config: Config, precision: Precision) -> dict[str, Any]:
    options = config.build.model_copy(
        update={"backend": "tensorrt_rtx", "precisions": (precision,), "architectures": ("sm86",)}
    )
    try:
        (engine,) = build_engines(run, [BUDGET], options)
    except SlsError as error:
        return {"plan_bytes": None, "refused": str(error)}
    return {"plan_bytes": engine.manifest.plan_bytes, "refused": ""}


def permutation(network: Network) -> dict[str, Any]:
    """What the order of channels gained before masks were chosen."""
    facts = read_permutation(network.searched().folder("search", BUDGET))
    assert facts is not None  # noqa: S101 - it was searched with permute
    model, patch = network.dense(), network.config.search.patch
    graph = trace(model, patch)
    found = find_layers(model, Pattern.parse(network.config.search.pattern), graph)
    interiors = find_interiors(graph, [layer.name for layer in found if layer.prunable])
    return {**facts, "interiors": sorted({name for one in interiors for name in one.consumers})}


def order(network: Network) -> dict[str, Any]:
    """PSNR of the dense network, and of those pruned in the old and in the new order."""
    models = {"dense": network.dense()}
    for name, permute in {"in order": False, "reordered": True}.items():
        run = network.searched(permute=permute)
        models[name] = load_model(run.folder("search", BUDGET) / WEIGHTS, network.config.model)
    about = models["dense"].description
    runners = [padded(TorchRunner(model), about) for model in models.values()]
    means = _means(runners, network.pictures, about)
    return {"psnr": dict(zip(models, means, strict=True))}


def accuracy(network: Network) -> dict[str, Any]:
    """PSNR of the dense and of the pruned network in every precision."""
    pruned = network.searched().folder("search", BUDGET) / WEIGHTS
    models = {"dense": network.dense(), "2:4": load_model(pruned, network.config.model)}
    return {name: _precisions(network, model) for name, model in models.items()}


def _precisions(network: Network, model: RestorationModel) -> dict[str, Any]:
    about = model.description
    graph, _ = run_passes(to_onnx(fold_norms(model).model), [("slim", Slim())])
    count = ExportConfig().calibration_crops
    crops = calibration_crops(network.config.data, None, about, count)
    runners, kept = [], []
    variants = ENTRIES[network.name].variants
    for precision, settings in map(VARIANTS.__getitem__, variants):
        options = ExportConfig(**settings)
        form = Forms(graph, lambda: crops, options, silent).of(precision)
        content = to_bytes(run_passes(graph.clone(), form.passes)[0])
        half = precision in ("fp16", "bf16")
        runners.append(padded(OnnxRunner(rounded(content) if half else content), about))
        layers = form.evidence.get("int8", {}).get("layers", [])
        kept.append([layer["name"] for layer in layers if not layer["quantized"]])
    means = _means(runners, network.pictures, about)
    return {
        name: {"psnr": psnr, "kept": names}
        for name, psnr, names in zip(variants, means, kept, strict=True)
    }


def _means(runners: Sequence[Runner], pictures: Path, about: Description) -> list[dict[str, float]]:
    """Mean Y-PSNR in dB of each runner on each set, as `sls-deploy validate` measures it."""
    found: list[dict[str, float]] = [{} for _ in runners]
    stages = [
        Stage(
            StageId(str(number), "onnx", "fp32", in_bytes=False, previous="", reference=""), runner
        )
        for number, runner in enumerate(runners)
    ]
    for name in SETS:
        truth = TruthFolder(pictures / name, Bicubic(about.scale), about.least_side)
        columns = zip(*measure(truth, stages, about.scale), strict=True)
        for own, stage, column in zip(found, stages, columns, strict=True):
            quality = summarise(stage.id, column).quality
            assert quality is not None  # noqa: S101 - there is truth
            own[name] = quality.psnr_y
    return found


PARTS = {"parity": parity, "permutation": permutation, "order": order, "accuracy": accuracy}
"""The parts of a network, each one file."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option("--out", help="Folder of the rows, one JSON file each.")]


@app.command()
def run(
    weights: Annotated[Path, typer.Option("--weights", help="Folder of dense weights.")],
    photos: Annotated[Path, typer.Option("--data", help="Folder of photographs.")],
    pictures: Annotated[Path, typer.Option("--pictures", help="Holds Set5, Set14 and B100.")],
    runs: Annotated[Path, typer.Option("--runs", help="Where the run folders lie.")],
    out: Out,
    only: Annotated[str, typer.Option("--only", help="Networks, by comma.")] = ",".join(ENTRIES),
    parts: Annotated[str, typer.Option("--parts", help="Parts, by comma.")] = ",".join(PARTS),
) -> None:
    """Do the parts of the networks that are not there yet."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} used"
    for name in only.split(","):
        entry = ENTRIES[name]
        flags: dict[str, dict[str, Any]] = {
            "model": {"weights": weights / entry.weights if entry.weights else DEMO_WEIGHTS},
            "data": {"photos": photos},
            "search": {"method": "reconstruct", "budgets": (BUDGET,)},
        }
        config = merge_config(merge_config(Config(), flags), entry.settings)
        network = Network(config, runs, name, pictures)
        for part in parts.split(","):
            path = out / f"{part}-{name}.json"
            if part not in entry.parts or path.exists():
                continue
            typer.echo(f"{name}: {part}", err=True)
            facts = {"title": entry.title, "machine": machine, "versions": versions()}
            write_json(path, {**facts, **PARTS[part](network)})


@app.command()
def table(out: Out) -> None:
    """Print the tables of what is there, in Markdown."""
    typer.echo("\n\n".join(make_tables(out, list(ENTRIES))))


if __name__ == "__main__":
    try:
        app()
    except SlsError as error:
        sys.exit(f"error: {error}")
