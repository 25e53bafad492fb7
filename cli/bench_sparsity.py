"""`sls-deploy bench --sparsity`: what sparse kernels gain, measured on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.engine.device import Device
    from sls_deploy.run import Run
    from sls_deploy.runtime.sparsity_gain import SparsityGain

_SHOWN = 12
"""Layers that are printed; JSON holds all."""


def bench_sparsity(
    target: Path | None,
    budget: str | None,
    precision: str | None,
    shape: str | None,
    *,
    json: bool,
) -> None:
    """Build engines of a run anew, with sparse kernels and without, time them, keep the gain.

    Args:
        target: a run folder or one engine of it; None for the newest run.
        budget: of a run, the budgets; None for all that have engines.
        precision: of a run, the precision of the engines; None for all.
        shape: input such as '1x3x180x320'; None for that which each engine was built for.
        json: print JSON.

    Raises:
        SlsError: there is no such engine for a GPU of this machine, or one cannot be measured.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.runtime.gain_on_gpu import gain_of_engine
    from sls_deploy.runtime.sparsity_gain import write_gain

    run, plans = _engines(target, budget, precision)
    sizes = o.shape_of(shape, "--shape")
    gains: dict[Path, SparsityGain] = {}
    with run.locked(), progress(quiet=json) as report:
        for plan in _for_this_gpu(plans):
            gains[plan] = gain_of_engine(plan, run, tuple(sizes) if sizes else None, report)
            write_gain(plan, gains[plan])
    if json:
        print_json([_as_json(plan, gain) for plan, gain in gains.items()])
        return
    for plan, gain in gains.items():
        print_gain(plan, gain)


def _as_json(plan: Path, gain: SparsityGain) -> dict[str, Any]:
    told = {
        "gain": gain.gain,
        "spread": gain.spread,
        "verdict": gain.verdict,
        "doubts": gain.doubts,
    }
    return {"plan": plan, **vars(gain), **told}


def print_gain(plan: Path, gain: SparsityGain) -> None:
    """Print a gain, the layers that take longest, and what makes the gain doubtful."""
    from sls_deploy.cli.output import print_line, print_table

    longest = sorted(
        gain.layers, key=lambda layer: max(layer.sparse_ms or 0, layer.dense_ms or 0), reverse=True
    )
    rows = [
        [layer.name, _milliseconds(layer.sparse_ms), _milliseconds(layer.dense_ms)]
        for layer in longest[:_SHOWN]
    ]
    sizes = "x".join(map(str, gain.shape))
    title = f"{plan}: layers that take longest at {sizes}, of {len(gain.layers)}"
    print_table(title, ["layer", "sparse allowed ms", "dense ms"], rows)
    print_line(f"engine {plan}: {gain}")
    for line in (*gain.doubts, *_clock_notes(gain.device)):
        print_line(f"  {line}")


def _clock_notes(device: Device | None) -> list[str]:
    """What the clocks at the end of a measurement say about it."""
    from sls_deploy.engine.device import clock_warning

    if device is None or device.clocks_locked:
        return []
    clock = device.sm_clock_mhz
    return [clock_warning("" if clock is None else f"{clock} MHz at the end")]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _engines(
    target: Path | None, budget: str | None, precision: str | None
) -> tuple[Run, list[Path]]:
    """The engines that were asked for, and the run they are of."""
    from sls_deploy.engine.stage import precision_of
    from sls_deploy.errors import SlsError
    from sls_deploy.run import CONFIG, Run, budget_name

    if target is not None and target.suffix == ".plan":
        if budget or precision:
            flag = "--budget" if budget else "--precision"
            raise SlsError("means nothing for one engine", flag, "Name a run folder.")
        folder = target.resolve().parent.parent.parent
        if not (folder / CONFIG).is_file():
            fix = "Copy the whole run, so that the graph is there to build anew."
            raise SlsError("is not in a run folder", str(target), fix)
        return Run.open(folder), [target]
    run = o.find_run(target)
    folders = [budget_name(value) for value in o.budgets_of(budget) or []] or ["*"]
    wanted = o.listed(precision)
    plans = [
        plan
        for name in folders
        for plan in sorted(run.path.glob(f"engines/{name}/*.plan"))
        if wanted is None or precision_of(plan) in wanted
    ]
    if not plans:
        raise SlsError("has no such engine", str(run.path), "`sls-deploy build` makes one.")
    return run, plans


def _for_this_gpu(plans: list[Path]) -> list[Path]:
    """Those of some engines that are sound and can run here.

    Raises:
        SlsError: none can; why the first cannot.
    """
    from sls_deploy.engine.manifest import verified_manifest
    from sls_deploy.errors import SlsError
    from sls_deploy.runtime.tensorrt import check_gpu

    fitting, refused = [], []
    for plan in plans:
        try:
            check_gpu(verified_manifest(plan), str(plan))
            fitting.append(plan)
        except SlsError as error:
            refused.append(error)
    if not fitting:
        raise refused[0]
    return fitting
