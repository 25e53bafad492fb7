"""A searched run of a small network, exported once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sls_deploy.config import Config, ExportConfig
from sls_deploy.config_file import to_toml
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.export.results import ExportResult
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import write_json, write_text
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model, save_weights
from sls_deploy.run import Run

SMALL = {
    "edsr": Description("edsr", {"features": 16, "blocks": 2, "scale": 3}, 3, 255.0),
    "carn": Description(
        "carn", {"features": 16, "groups": 2, "efficient": True, "shared": True, "scale": 2}, 2, 1.0
    ),
    "rfdn": Description(
        "rfdn", {"features": 10, "distilled": 5, "attention": 4, "blocks": 2, "scale": 2}, 2, 255.0
    ),
    "rlfn": Description("rlfn", {"features": 16, "attention": 4, "blocks": 2, "scale": 4}, 4, 1.0),
}


def keep_two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Zero all but the two largest of every four consecutive input channels."""
    channels = weight.shape[1]
    last = nn.functional.pad(weight.movedim(1, -1), (0, -channels % 4))
    quads = last.reshape(*last.shape[:-1], -1, 4)
    place = quads.abs().argsort(-1, descending=True).argsort(-1)
    kept = (quads * (place < 2)).reshape(last.shape)[..., :channels]
    return kept.movedim(-1, 1).contiguous()


def prune(model: RestorationModel) -> dict[str, Any]:
    """Prune all convolutions but the first and last in place; return what ratios.json holds."""
    layers = []
    found = [(n, m) for n, m in model.network.named_modules() if isinstance(m, nn.Conv2d)]
    for index, (name, module) in enumerate(found):
        inner = 0 < index < len(found) - 1 and module.weight.shape[1] >= 4
        if inner:
            module.weight.data = keep_two_of_four(module.weight.data)
        layers.append({"name": name, "kept": 2 if inner else 4, "of": 4})
    return {"budget": 0.5, "pattern": "2:4", "cost": 0.5, "network_cost": 0.6, "layers": layers}


def write_search(
    path: Path, model: RestorationModel, ratios: dict[str, Any], config: Config | None = None
) -> Run:
    """Make a run folder in which budget 0.5 was searched."""
    run = Run.create(path)
    write_text(path / "config.toml", to_toml(config or Config()))
    folder = run.folder("search", 0.5)
    run.stage(
        "search/b0.50",
        {},
        lambda: [
            save_weights(folder / "weights.safetensors", model),
            write_json(folder / "ratios.json", ratios),
        ],
    )
    return run


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of two photographs: whole ones take seconds to blur for networks at x1."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "rocket"):
        write_image(folder / f"{name}.png", sample_photos()[name][100:244, 100:260])
    return folder


@pytest.fixture(scope="session")
def fresh_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Makes a searched run of a small network; `change` may alter the weights after pruning."""

    def make(name: str, change: Callable[[nn.Module], None] = lambda network: None) -> Run:
        torch.manual_seed(0)
        model = build_model(SMALL[name])
        ratios = prune(model)
        change(model.network)
        return write_search(tmp_path_factory.mktemp(name) / "run", model, ratios)

    return make


# RFDN's operators are those of RLFN and EDSR; test_export_stage.py proves it in all precisions.
@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.slow if name == "rfdn" else ()) for name in SMALL],
)
def exported(request: pytest.FixtureRequest, fresh_run: Callable[..., Run]) -> ExportResult:
    """Networks of the registry, exported in both precisions."""
    return export_onnx(fresh_run(request.param), 0.5, ExportConfig(calibration_crops=4))
