"""The validation stage: every form of a budget's network against the truth and PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sls_deploy.config import Config, ValidateConfig
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.evidence import Evidence
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.results import exported_weights
from sls_deploy.files import hash_file, write_json
from sls_deploy.models.model import load_model
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run, budget_name, versions
from sls_deploy.runtime.sparsity_gain import gain_file, known_evidence
from sls_deploy.sparsity.ratios import REFILLED, read_ratios
from sls_deploy.validate.assess import CropFolder, Subject, assess
from sls_deploy.validate.engines import engine_name, why_stale
from sls_deploy.validate.figures import Validation
from sls_deploy.validate.forms import (
    Tiling,
    bisections,
    engine_forms,
    exported_graphs,
    graph_forms,
    pytorch_form,
    stages_of,
)

_FORM = 3
"""Version of `Validation`; figures of another are measured anew."""


@dataclass(frozen=True)
class ValidateResult:
    """What the validation stage wrote."""

    validation: Validation
    """The figures."""
    file: Path
    """JSON of them in the run folder."""
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
        options: folder of the pictures, and the gates.
        report: receives one report for each picture.

    Raises:
        SlsError: the budget was not searched or not exported, or pictures that cannot be used.
    """
    searched, exported = run.require("search", budget), run.require("export", budget)
    config = run.config
    truth = _pictures(config, options)
    weights = config.model.weights
    if weights is None:
        raise SlsError("model.weights is missing", str(run.path / "config.toml"))
    graphs = exported_graphs(exported)
    plans = sorted(run.folder("engines", budget).glob("*.plan"))
    sparse_file, ratios = (
        searched / exported_weights(exported),
        read_ratios(searched / "ratios.json"),
    )
    dense_hash, code = hash_file(weights), code_hash(config.model.name)
    if ratios.get("dense_sha256") != dense_hash:
        what = "is not the checkpoint that was searched"
        raise SlsError(what, str(weights), "Put it back, or search again.")
    if ratios.get("code_sha256", code) != code:
        fix = "Put the code back, or search again."
        raise SlsError("is not the code that was searched", config.model.name, fix)
    stale = {plan: why_stale(run, budget, plan) for plan in plans}
    inputs = {
        "versions": versions(),
        "options": options.model_dump(mode="json", exclude={"pictures"}),
        "pictures": {str(path): hash_file(path) for path in truth.files},
        "degradation": truth.degradation.note,
        "code": code,
        "dense": dense_hash,
        "gpu": gpu_architecture(),
        "form": _FORM,
        "gains": {
            file.name: hash_file(file) for plan in plans if (file := gain_file(plan)).is_file()
        },
        "engines": {plan.stem: not reason for plan, reason in stale.items()},
    }
    name = _name(truth.folder)
    folder = run.path / "validation" / budget_name(budget)
    path = folder / f"{name}.json"

    def work() -> Iterable[Path]:
        dense, sparse = (load_model(file, config.model) for file in (weights, sparse_file))
        not_run = {engine_name(plan): reason for plan, reason in stale.items() if reason}
        sound = [plan for plan, reason in stale.items() if not reason]
        files = graph_forms(graphs, not_run)
        forms = [
            pytorch_form(dense, weights),
            pytorch_form(sparse, sparse_file, sparse=True),
            *files,
            *engine_forms(sound, files, not_run),
        ]
        tiling = Tiling.of(options.tile, forms)
        subject = Subject(
            stages_of(forms, dense.description, tiling),
            bisections(forms, sparse),
            _exported(ratios, sparse_file),
            {form.id.name: form.sha256 for form in forms},
        )
        validation = replace(
            assess(
                truth,
                subject,
                options,
                f"validate {budget_name(budget)}",
                report,
                tile=tiling.cut(truth),
                crops=CropFolder(folder / name, run.path),
            ),
            budget=budget,
            not_run=not_run,
            evidence=_evidence(stale),
        )
        for crop in validation.crops:
            yield from (run.path / file for file in crop.files.values())
        yield write_json(path, asdict(validation))

    with run.locked():
        key = f"validate/{budget_name(budget)}/{name}"
        reads = (sparse_file, *graphs.values(), *plans)
        record, skipped = run.stage(key, inputs, work, reads=reads)
    return ValidateResult(read_validation(path), path, record.seconds, record.peak_mib, skipped)


def read_validation(path: Path) -> Validation:
    """Read the figures of one budget and folder.

    Raises:
        SlsError: the file is damaged.
    """
    try:
        return TypeAdapter(Validation).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SlsError(f"cannot be read ({error})", str(path), "Validate again.") from None


def _pictures(config: Config, options: ValidateConfig) -> TruthFolder:
    if options.pictures is None:
        raise SlsError("no pictures were named", "--data", "Give a folder of pictures.")
    model = config.model
    degradation, paths = choose_degradation(
        config.data, options.pictures, model.scale or 1, model.frames, options.degradation
    )
    # Runners fill small pictures up to what the network takes.
    return TruthFolder(options.pictures, degradation, paths=paths)


def _exported(ratios: dict[str, Any], weights: Path) -> dict[str, Any]:
    """What is known of the weights that were exported: they need not be the refilled ones."""
    left_out = set() if weights.name == REFILLED else {"refill"}
    return {key: value for key, value in ratios.items() if key not in left_out}


def _name(folder: Path) -> str:
    """What the figures of a folder are kept as: its name, and which folder of that name it is."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return f"{folder.resolve().name}-{digest}"


def _evidence(stale: Mapping[Path, str]) -> dict[str, Evidence]:
    """What is known of engines that are what the run built; of others it says nothing."""
    found = {}
    for plan, reason in stale.items():
        if reason:
            continue
        with suppress(SlsError):  # why an engine is of no use stands among those that were not run
            found[engine_name(plan)] = known_evidence(plan, verified_manifest(plan))
    return found
