"""Small real runs: searched, exported, built, timed and validated by the public functions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sls_deploy.config import (
    BuildConfig,
    Config,
    DataConfig,
    ExportConfig,
    ModelConfig,
    SearchConfig,
    ValidateConfig,
)
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import export_samples, sample_photos
from sls_deploy.engine.stage import build_engines
from sls_deploy.export.stage import export_onnx
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.run import Run
from sls_deploy.search.stage import search_budgets
from sls_deploy.validate.bench import BenchOptions, bench_run
from sls_deploy.validate.stage import validate_budget

SHAPE = (1, 3, 24, 32)
SEARCH: dict[str, Any] = {"batch": 2, "patch": 16, "crops": 4, "permute": False}


def make_runs(folder: Path) -> Path:
    """Three runs of one dense network below `folder`/runs, and what they were made from.

    'small' was searched for 0.75 and 0.5 by `auto`, exported in fp32 and fp16 and validated; an
    engine of 0.5 was built, and all of its forms were timed. 'filled' was reconstructed for 0.4 in
    groups of 4, exported with layers filled up, and validated on the same pictures. 'learnt' was
    only searched, by `sls`.
    """
    export_samples(folder / "photos", ["astronaut", "coffee"])
    cat = sample_photos()["chelsea"]
    for name, top, left in (("eye", 80, 140), ("fur", 200, 240), ("nose", 120, 200)):
        part = cat[top : top + 64, left : left + 80]
        write_image(folder / "pictures" / f"{name}.png", part)
    dense = folder / "dense.safetensors"
    shutil.copy(DEMO_WEIGHTS, dense)
    config = Config(
        model=ModelConfig(weights=dense),
        data=DataConfig(photos=folder / "photos", held_out=2),
        search=SearchConfig(budgets=(0.75, 0.5), steps=4, **SEARCH),
        export=ExportConfig(calibration_crops=2),
        build=BuildConfig(min_shape=SHAPE, opt_shape=SHAPE, max_shape=(1, 3, 64, 64)),
        validate=ValidateConfig(pictures=folder / "pictures", max_loss_db=9, max_picture_loss_db=9),
    )
    small = search(config, folder / "runs" / "small")
    for budget in (0.75, 0.5):
        export_onnx(small, budget, config.export)
    build_engines(small, [0.5], config.build)
    bench_run(small, 0.5, BenchOptions(warm_up=1, repeats=3, threads=1))
    for budget in (0.75, 0.5):
        validate_budget(small, budget, config.validate_)

    ratios = SearchConfig(method="reconstruct", pattern="n:4", budgets=(0.4,), **SEARCH)
    filled = search(config.model_copy(update={"search": ratios}), folder / "runs" / "filled")
    export_onnx(filled, 0.4, ExportConfig(precisions=("fp32",), calibration_crops=2))
    validate_budget(filled, 0.4, config.validate_)

    learnt = SearchConfig(method="sls", pattern="n:8", budgets=(0.5,), steps=24, **SEARCH)
    search(config.model_copy(update={"search": learnt}), folder / "runs" / "learnt")
    return folder


def search(config: Config, path: Path) -> Run:
    """Search all budgets of the settings."""
    search_budgets(config, path)
    return Run.open(path)
