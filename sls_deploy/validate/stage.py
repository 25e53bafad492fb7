"""The validation stage: every form of a budget's network against the truth and PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from sls_deploy.config import Precision, ValidateConfig
from sls_deploy.data.degradation import Degradation, choose_degradation
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.device import present_device
from sls_deploy.engine.evidence import Evidence
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.passes.rounding import runnable
from sls_deploy.export.results import exported_weights
from sls_deploy.files import hash_file, write_json
from sls_deploy.models.model import load_model
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.run import Run, budget_name, versions
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Runner
from sls_deploy.runtime.sparsity_gain import gain_file, read_gain, with_gain
from sls_deploy.runtime.tensorrt import EngineRunner
from sls_deploy.sparsity.ratios import read_ratios
from sls_deploy.validate.engines import engine_name, why_stale
from sls_deploy.validate.gate import DENSE, SPARSE, Gate, Metric, headline, judge
from sls_deploy.validate.measure import PictureFigures, StageFigures, measure

REPORT = "report.json"
PROTOCOL = (
    "{input}; outputs clipped and rounded to 8 bits; Y of ITU-R BT.601; {shaved} shaved from every "
    "side; PSNR and SSIM averaged over the pictures. Parity: PSNR of the floating-point "
    "outputs to sparse PyTorch with peak 1, the lowest over the pictures. ONNX Runtime's CPU "
    "provider computes fp16 graphs in fp32 inside; proof.json has their parity with every "
    "activation rounded. It has no bf16: such graphs run in fp32 with every value rounded to bf16."
)


_FORM = 2
"""Version of `Validation`; figures of another are measured anew."""


@dataclass(frozen=True)
class Validation:
    """What was measured on one folder of pictures for one budget."""

    budget: float
    """The budget."""
    folder: str
    """Folder of the truth."""
    pictures: int
    """Number of pictures."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    metric: Metric
    """The figure that is shown and whose loss is limited."""
    protocol: str
    """How the figures were measured."""
    stages: tuple[StageFigures, ...]
    """Dense PyTorch first, then each form in the order of the flow."""
    not_run: dict[str, str]
    """Engines that could not run here, each with its reason."""
    evidence: dict[str, Evidence]
    """How far the sparsity of each engine is proven, by its name."""
    gates: tuple[Gate, ...]
    """Limits and what was measured against them."""
    passed: bool
    """Whether all gates passed."""


@dataclass(frozen=True)
class ValidateResult:
    """What the validation stage wrote."""

    validation: Validation
    """The figures."""
    report: Path
    """`report.json` with the figures of all budgets and folders validated in the run."""
    seconds: float
    """Wall time."""
    peak_mib: int
    """Peak resident memory of the process, MiB."""
    skipped: bool
    """Whether an unchanged earlier result was taken."""


def validate_budget(
    run: Run, budget: float, options: ValidateConfig, report: Report = silent
) -> ValidateResult:
    """Measure dense and sparse PyTorch, every exported graph and every engine that can run here.

    A gate that fails does not raise: see `Validation.passed`.

    Args:
        run: holds the budget, searched and exported.
        budget: which one.
        options: folder of the truth, and the gates.
        report: receives one report for each picture.

    Raises:
        SlsError: the budget was not searched or not exported, or pictures that cannot be used.
    """
    if options.pictures is None:
        raise SlsError("no pictures were named", "--data", "Give a folder of ground truth.")
    searched, exported = run.require("search", budget), run.require("export", budget)
    config = run.config.model
    if config.weights is None:
        raise SlsError("model.weights is missing", str(run.path / "config.toml"))
    data = run.config.data.model_copy(update={"degradation": options.degradation})
    degradation, paths = choose_degradation(
        data, options.pictures, config.scale or 1, config.frames
    )
    # Runners fill small pictures up to what the network takes.
    truth = TruthFolder(options.pictures, degradation, paths=paths)
    # Those from bytes to bytes were compared with these by the export, level by level.
    named = {precision: exported / f"model.{precision}.onnx" for precision in get_args(Precision)}
    graphs = {precision: path for precision, path in named.items() if path.is_file()}
    plans = sorted(run.folder("engines", budget).glob("*.plan"))
    sparse = searched / exported_weights(exported)
    dense_hash = hash_file(config.weights)
    ratios, code = read_ratios(searched / "ratios.json"), code_hash(config.name)
    if ratios.get("dense_sha256") != dense_hash:
        what = "is not the checkpoint that was searched"
        raise SlsError(what, str(config.weights), "Put it back, or search again.")
    if ratios.get("code_sha256", code) != code:
        fix = "Put the code back, or search again."
        raise SlsError("is not the code that was searched", config.name, fix)
    stale = {plan: why_stale(run, budget, plan) for plan in plans}
    inputs = {
        "versions": versions(),
        "options": options.model_dump(mode="json", exclude={"pictures"}),
        "pictures": {str(path): hash_file(path) for path in truth.files},
        "degradation": degradation.note,
        "code": code,
        "dense": dense_hash,
        "gpu": gpu_architecture(),
        "form": _FORM,
        "gains": {
            file.name: hash_file(file) for plan in plans if (file := gain_file(plan)).is_file()
        },
        "engines": {plan.stem: not reason for plan, reason in stale.items()},
    }
    digest = hashlib.sha256(str(options.pictures.resolve()).encode()).hexdigest()[:8]
    name = f"{options.pictures.resolve().name}-{digest}"
    path = run.path / "validation" / budget_name(budget) / f"{name}.json"

    def work() -> Iterable[Path]:
        assert config.weights is not None  # noqa: S101 - said above
        dense = load_model(config.weights, config)
        about = dense.description
        engines, not_run = _engines(stale)
        runners: list[Runner] = [
            TorchRunner(dense, DENSE),
            TorchRunner(load_model(sparse, config), SPARSE),
            *(
                OnnxRunner(runnable(path.read_bytes(), precision), f"ONNX {precision}")
                for precision, path in graphs.items()
            ),
            *engines,
        ]
        padded: list[Runner] = [
            Padded(runner, about.least_side, about.multiple, about.scale) for runner in runners
        ]
        stages = _measure(truth, padded, budget, report)
        metric = headline(truth.scale)
        gates = judge(stages, options, metric)
        validation = Validation(
            budget=budget,
            folder=str(options.pictures),
            pictures=len(truth),
            scale=truth.scale,
            metric=metric,
            protocol=_protocol(degradation),
            stages=stages,
            not_run=not_run,
            evidence=_evidence(stale),
            gates=gates,
            passed=all(gate.passed for gate in gates),
        )
        yield write_json(path, asdict(validation))

    with run.locked():
        key = f"validate/{budget_name(budget)}/{name}"
        record, skipped = run.stage(key, inputs, work, reads=(sparse, *graphs.values(), *plans))
        summary = _summarise(run)
    validation = read_validation(path)
    return ValidateResult(validation, summary, record.seconds, record.peak_mib, skipped)


def _protocol(degradation: Degradation) -> str:
    scale = degradation.scale
    shaved = "nothing" if scale == 1 else "as many pixels as the scale"
    return PROTOCOL.format(input=degradation.note, shaved=shaved)


def read_validation(path: Path) -> Validation:
    """Read the figures of one budget and folder.

    Raises:
        SlsError: the file is damaged.
    """
    try:
        return TypeAdapter(Validation).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SlsError(f"cannot be read ({error})", str(path), "Validate again.") from None


def _engines(stale: Mapping[Path, str]) -> tuple[list[Runner], dict[str, str]]:
    """Runners of the engines that work on this machine, and why the others do not."""
    runners: list[Runner] = []
    not_run = {}
    for plan, reason in stale.items():
        name = engine_name(plan)
        if reason:
            not_run[name] = reason
            continue
        try:
            runners.append(EngineRunner(plan, name))
        except SlsError as error:
            not_run[name] = error.what
    return runners, not_run


def _evidence(stale: Mapping[Path, str]) -> dict[str, Evidence]:
    """What is known of engines that are what the run built; of others it says nothing."""
    here = present_device()
    found = {}
    for plan, reason in stale.items():
        if reason:
            continue
        with suppress(SlsError):  # why an engine is of no use stands among those that were not run
            manifest = verified_manifest(plan)
            gain = read_gain(plan, manifest.plan_sha256)
            known = manifest.evidence
            found[engine_name(plan)] = known if gain is None else with_gain(known, gain, here)
    return found


def _measure(
    truth: TruthFolder, runners: list[Runner], budget: float, report: Report
) -> tuple[StageFigures, ...]:
    rows: list[list[PictureFigures]] = []
    task = f"validate {budget_name(budget)}"
    for figures in measure(truth, runners, runners[1], truth.scale):
        rows.append(figures)
        report(Progress(task, len(rows), len(truth)))
    columns = zip(*rows, strict=True)
    return tuple(
        StageFigures.of(runner.name, column)
        for runner, column in zip(runners, columns, strict=True)
    )


def _summarise(run: Run) -> Path:
    """Put the figures of all budgets and folders that still hold into the report."""
    folder = run.path / "validation"
    found = [
        json.loads(path.read_text("utf-8"))
        for path in sorted(folder.glob("b*/*.json"))
        if run.is_current(f"validate/{path.parent.name}/{path.stem}")
    ]
    found.sort(key=lambda value: (-value["budget"], value["folder"]))
    return write_json(folder / REPORT, {"version": 1, "validations": found})
