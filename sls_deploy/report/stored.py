"""What a run folder holds of one budget, as far as it is current."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.results import PROOF
from sls_deploy.run import Run, budget_name
from sls_deploy.runtime.bench_result import Bench, read_bench
from sls_deploy.search.outcome import HISTORY, RATIOS
from sls_deploy.sparsity.ratios import read_ratios
from sls_deploy.validate.figures import Validation

_PROVEN = ("name", "eligible", "reason")


@dataclass(frozen=True)
class Engine:
    """An engine and what is known of it."""

    plan: Path
    """The engine."""
    manifest: EngineManifest
    """The JSON beside it."""


@dataclass(frozen=True)
class Stored:
    """What stands of one budget."""

    budget: float
    """The budget."""
    ratios: Mapping[str, Any]
    """ratios.json of the search."""
    history: Mapping[str, Any]
    """history.json of the search."""
    proof: Mapping[str, Any] | None
    """proof.json of the export; None where nothing current was exported."""
    engines: tuple[Engine, ...]
    """Engines that are what the run built, by name."""
    validations: tuple[Validation, ...]
    """Figures of the forms that stand now, by folder."""
    benches: tuple[Bench, ...]
    """What was timed, by device and input."""
    outdated: tuple[str, ...]
    """What was left out, because it or what it was made from has changed or it is of an older
    form, such as 'the export of budget 0.5'."""


def read_stored(run: Run, budget: float) -> Stored:
    """Read all that is current of a budget.

    What was not done is missing; what is no longer current is left out and named.

    Args:
        run: the run.
        budget: one that was searched.

    Raises:
        SlsError: the search's files have changed, or a file is damaged.
    """
    folder = run.folder("search", budget)
    ratios, history = read_ratios(folder / RATIOS), _read(folder / HISTORY, "search")
    run.require("search", budget)
    outdated: list[str] = []
    return Stored(
        budget=budget,
        ratios=ratios,
        history=history,
        proof=read_proof(run, budget, outdated),
        engines=tuple(_engines(run, budget, outdated)),
        validations=read_validations(run, budget, outdated),
        benches=tuple(_benches(run, budget, outdated)),
        outdated=tuple(outdated),
    )


def read_proof(run: Run, budget: float, outdated: list[str]) -> Mapping[str, Any] | None:
    """The proof of a budget's export; None where nothing current was exported.

    Args:
        run: the run.
        budget: which one.
        outdated: receives the export if it is left out.

    Raises:
        SlsError: the file is damaged.
    """
    key, path = f"export/{budget_name(budget)}", run.folder("export", budget) / PROOF
    if key not in run.manifest:
        return None
    proof: Mapping[str, Any] | None = _read(path, "export") if path.is_file() else None
    if proof is None or not _is_proof(proof) or not run.is_current(key):
        outdated.append(f"the export of budget {budget:g}")
        return None
    return proof


def read_validations(run: Run, budget: float, outdated: list[str]) -> tuple[Validation, ...]:
    """The current figures of a budget, by folder of pictures.

    Args:
        run: the run.
        budget: which one.
        outdated: receives the folders whose figures are left out.

    Raises:
        SlsError: a file is damaged.
    """
    found = []
    prefix = f"validate/{budget_name(budget)}/"
    for key in _finished(run, prefix):
        name = key.removeprefix(prefix)
        path = run.folder("validation", budget) / f"{name}.json"
        validation = _validation(path)
        if validation is None or not run.is_current(key):
            pictures = name.rpartition("-")[0]
            outdated.append(f"the validation of budget {budget:g} on {pictures}")
        else:
            found.append(validation)
    return tuple(sorted(found, key=lambda validation: validation.folder))


def _benches(run: Run, budget: float, outdated: list[str]) -> Iterator[Bench]:
    prefix = f"bench/{budget_name(budget)}/"
    for key in _finished(run, prefix):
        path = run.path / f"{key}.json"
        bench = read_bench(path) if path.is_file() else None
        if bench is not None and run.is_current(key):
            yield bench
        else:
            outdated.append(f"the timing of budget {budget:g}, {key.removeprefix(prefix)}")


def _is_proof(proof: Mapping[str, Any]) -> bool:
    """Whether a proof has the form of this version."""
    try:
        layers = [layer for entry in proof["files"].values() for layer in entry["layers"]]
        _ = proof["source"]["file"], [layer[key] for layer in layers for key in _PROVEN]
    except (AttributeError, KeyError, TypeError):
        return False
    return bool(proof["files"])


def _engines(run: Run, budget: float, outdated: list[str]) -> Iterator[Engine]:
    for key in _finished(run, f"engines/{budget_name(budget)}/"):
        plan = run.path / f"{key}.plan"
        path = plan.with_suffix(".json")
        if path.is_file():
            _read(path, "build")
        try:
            if not run.is_current(key):
                raise SlsError("is no longer what was built", str(plan))
            yield Engine(plan, verified_manifest(plan))
        except SlsError:
            outdated.append(f"the engine {plan.stem} of budget {budget:g}")


def _finished(run: Run, prefix: str) -> list[str]:
    return sorted(key for key in run.manifest if key.startswith(prefix))


def _validation(path: Path) -> Validation | None:
    """Figures; None where there are none, or of an older form."""
    if not path.is_file():
        return None
    found = _read(path, "validate")
    try:
        return _form().validate_python(found)
    except ValidationError:
        return None


@cache
def _form() -> TypeAdapter[Validation]:
    """What figures must look like; to make it takes longer than to read figures by it."""
    return TypeAdapter(Validation)


def _read(path: Path, command: str) -> Any:
    """The JSON of a file that `command` writes."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fix = f"`sls-deploy {command}` writes it again."
        raise SlsError(f"cannot be read ({error})", str(path), fix) from None
