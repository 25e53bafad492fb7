"""Everything that a run folder holds, as a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from sls_deploy.config_file import to_toml
from sls_deploy.engine.evidence import Level
from sls_deploy.errors import SlsError
from sls_deploy.models.own import is_own, short_name
from sls_deploy.report.commands import commands
from sls_deploy.report.curves import draw, measured, runs_beside
from sls_deploy.report.layers import layer_rows, refilled
from sls_deploy.report.schema import (
    VERSION,
    BudgetReport,
    Done,
    EngineFacts,
    Network,
    RunReport,
)
from sls_deploy.report.searched import competitors, costs, history
from sls_deploy.report.stored import Engine, Stored, read_stored
from sls_deploy.report.verdict import verdict
from sls_deploy.run import Run
from sls_deploy.runtime.sparsity_gain import known_evidence
from sls_deploy.search.outcome import RATIOS
from sls_deploy.validate.engines import engine_name


def gather_report(run: Run) -> RunReport:
    """Report all that the run folder holds by now and that is current.

    What was not done yet is missing; what is no longer current is left out, and the verdict says
    so.

    Args:
        run: a run with at least one budget searched.

    Raises:
        SlsError: no budget was searched, a search was changed or is of another version, or a file
            is damaged.
    """
    searched = run.budgets("search")
    if not searched:
        fix = "`sls-deploy search` does it."
        raise SlsError("nothing was searched yet", str(run.path), fix)
    stored = [read_stored(run, budget) for budget in searched]
    budgets = tuple(_budget(run, one) for one in stored)
    network = _network(run, stored[0])
    validations = [one for budget in budgets for one in budget.validations]
    own = measured(run.path.resolve().name, budgets, own=True)
    return RunReport(
        version=VERSION,
        run=str(run.path),
        network=network,
        passed=all(one.passed for one in validations) if validations else None,
        verdict=verdict(budgets, [name for one in stored for name in one.outdated]),
        budgets=budgets,
        curves=draw(own, runs_beside(run, network) if own else ()),
        commands=commands(run, stored),
        config=to_toml(run.config),
        done=tuple(_done(run)),
    )


def _budget(run: Run, stored: Stored) -> BudgetReport:
    ratios = stored.ratios
    try:
        rows = layer_rows(ratios, stored.proof)
        told = ratios["refill"] if refilled(stored.proof) else ratios
        engines = tuple(_engines(stored.engines))
        return BudgetReport(
            budget=stored.budget,
            pattern=ratios["pattern"],
            method=ratios["method"],
            cost_model=ratios["cost_model"],
            costs=costs(ratios, stored.proof, rows, stored.benches),
            level=_highest(engine.level for engine in engines),
            held_out_dense=ratios["dense_psnr"],
            held_out_sparse=told["psnr"],
            competitors=competitors(ratios),
            layers=rows,
            history=history(ratios, stored.history),
            engines=engines,
            validations=stored.validations,
            benches=stored.benches,
        )
    except (KeyError, TypeError, ValueError) as error:
        where = str(run.folder("search", stored.budget) / RATIOS)
        fix = "Search again into a new folder (--out)."
        raise SlsError(f"is of another version of sls-deploy ({error})", where, fix) from None


def _engines(engines: Iterable[Engine]) -> Iterator[EngineFacts]:
    for engine in engines:
        manifest = engine.manifest
        evidence = known_evidence(engine.plan, manifest)
        yield EngineFacts(
            name=engine_name(engine.plan),
            backend=f"{manifest.backend} {manifest.backend_version}",
            precision=manifest.precision,
            bytes=manifest.plan_bytes,
            sha256=manifest.plan_sha256,
            level=evidence.level,
            statement=evidence.statement,
        )


def _highest(levels: Iterable[str]) -> str:
    order: tuple[str, ...] = get_args(Level)
    return max(levels, key=order.index, default=order[0])


def _network(run: Run, stored: Stored) -> Network:
    model, ratios = run.config.model, stored.ratios
    return Network(
        name=short_name(model.name) if is_own(model.name) else model.name,
        weights=Path(model.weights or "").name,
        sha256=ratios["dense_sha256"],
        scale=model.scale,
        macs_per_pixel=ratios["macs_per_pixel"],
    )


def _done(run: Run) -> Iterator[Done]:
    for key, record in run.manifest.items():
        yield Done(
            key=key,
            seconds=record.seconds,
            peak_mib=record.peak_mib,
            machine=record.machine,
            versions=record.versions,
            outputs=record.outputs,
        )
