from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sls_deploy.config import Config, DataConfig, ModelConfig, SearchConfig
from sls_deploy.data.samples import export_samples
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights

OPTIONS = {"features": 16, "blocks": 2, "scale": 2, "input_range": 1.0}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real photographs."""
    folder = tmp_path_factory.mktemp("photos")
    export_samples(folder, ["astronaut", "chelsea", "coffee"])
    return folder


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small dense network."""
    torch.manual_seed(3)
    model = build_model(Description("edsr", OPTIONS, 2, 1.0))
    return save_weights(tmp_path_factory.mktemp("dense") / "small.safetensors", model)


@pytest.fixture(scope="session")
def config(dense: Path, photos: Path) -> Config:
    """Settings of a search of a second."""
    return Config(
        model=ModelConfig(weights=dense),
        data=DataConfig(photos=photos, held_out=2),
        search=SearchConfig(
            method="sls", pattern="n:16", budgets=(0.4,), steps=12, batch=2, patch=12, permute=False
        ),
    )
