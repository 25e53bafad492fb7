"""`sls-deploy run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sls_deploy.cli import options as o
from sls_deploy.cli.build import build_flags, print_build
from sls_deploy.cli.export import print_export
from sls_deploy.cli.search import default_folder, print_search, search_flags
from sls_deploy.cli.validate import check_gates, print_report, print_validation

if TYPE_CHECKING:
    from sls_deploy.config import Config


def run(
    model: o.Model = None,
    weights: o.Weights = None,
    scale: o.Scale = None,
    frames: o.Frames = None,
    data: o.Photos = None,
    pictures: o.Truth = None,
    method: o.Method = None,
    pattern: o.Pattern = None,
    budget: o.Budgets = None,
    steps: o.Steps = None,
    minutes: o.Minutes = None,
    batch: o.Batch = None,
    patch: o.Patch = None,
    learning_rate: o.Rate = None,
    penalty: o.Penalty = None,
    recover_rate: o.RecoverRate = None,
    distillation: o.Distillation = None,
    ema: o.Ema = None,
    regrow: o.Regrow = None,
    refits: o.Refits = None,
    memory: o.Memory = None,
    crops: o.Crops = None,
    narrow: o.Narrow = None,
    align: o.Align = None,
    permute: o.Permute = None,
    keep: o.Keep = None,
    prune: o.Prune = None,
    seed: o.Seed = None,
    cost: o.Cost = None,
    gpu: o.Gpu = None,
    latency_table: o.LatencyTable = None,
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    training_precision: o.TrainingPrecision = None,
    accumulate: o.Accumulate = None,
    tensorboard: o.Tensorboard = None,
    degradation: o.Degradation = None,
    blur_length: o.BlurLength = None,
    blur_varying: o.BlurVarying = None,
    blur_shake: o.BlurShake = None,
    blur_blend: o.BlurBlend = None,
    blur_noise: o.BlurNoise = None,
    cache_mib: o.CacheMib = None,
    arch: o.Architectures = None,
    backend: o.Backend = None,
    timeout: o.Timeout = None,
    max_loss_db: o.MaxLoss = None,
    max_picture_loss_db: o.MaxPictureLoss = None,
    config: o.Settings = None,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy run --weights rlfn.pth --data photos/ --pictures Set5/ --budget 0.5
    sls-deploy run

    Search, export, build and validate every budget. Stages whose inputs are unchanged are
    skipped; an interrupted run goes on with the same command.
    """
    given = {**locals(), "precision": None, "io": None}
    flags = {
        **search_flags(given),
        "build": build_flags({**given, "memory": None}),  # --memory is the search's
        "validate": {
            "pictures": pictures,
            "max_loss_db": max_loss_db,
            "max_picture_loss_db": max_picture_loss_db,
        },
    }
    settings = o.load_settings(config, flags)
    run_all(settings, out or default_folder(settings.model.weights), json=json)


def run_all(settings: Config, folder: Path, *, json: bool = False) -> None:
    """Do the four stages for every budget of the settings, and print what they did."""
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.engine.stage import build_engines
    from sls_deploy.export.stage import export_onnx
    from sls_deploy.report.files import write_report
    from sls_deploy.run import Run
    from sls_deploy.search.processes import Processes
    from sls_deploy.search.stage import search_budgets
    from sls_deploy.validate.stage import validate_budget

    _check_ready(settings)
    with (
        Processes.of(settings.search) as processes,
        progress(quiet=json or not processes.is_first) as report,
    ):
        searched = search_budgets(settings, folder, report, processes)
        if not processes.is_first:
            return
        stages = Run.open(folder)
        budgets = [result.budget for result in searched.budgets]
        exported = [export_onnx(stages, value, settings.export, report) for value in budgets]
        built = build_engines(stages, budgets, settings.build, report)
        validated = [
            validate_budget(stages, value, settings.validate_, report) for value in budgets
        ]
    page = write_report(stages).page
    if json:
        print_json({"search": searched, "export": exported, "build": built, "validate": validated})
    else:
        print_search(searched)
        for export in exported:
            print_export(export)
        for engine in built:
            print_build(engine)
        for result in validated:
            print_validation(result.validation, skipped=result.skipped)
        print_report(page)
    check_gates([result.validation for result in validated])


def _check_ready(settings: Config) -> None:
    """Refuse what the later stages would refuse, before the search takes its time.

    Raises:
        SlsError: no pictures to validate on, or nothing to run or build the export with.
    """
    from sls_deploy.data.images import list_images
    from sls_deploy.engine.backends import choose_backend
    from sls_deploy.errors import SlsError
    from sls_deploy.runtime.onnxruntime import load_onnxruntime

    if settings.validate_.pictures is None:
        raise SlsError("no pictures were named", "--pictures", "Give a folder of ground truth.")
    list_images(settings.validate_.pictures)
    load_onnxruntime()
    for architecture in settings.build.architectures:
        choose_backend(settings.build.backend, architecture)
