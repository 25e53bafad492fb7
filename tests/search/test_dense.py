from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.config import DataConfig, TrainConfig
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.models.model import load_model
from sls_deploy.progress import Progress
from sls_deploy.search.dense import train_dense

CONFIG = TrainConfig(
    options={"features": 8, "blocks": 1, "scale": 2, "input_range": 1.0},
    steps=60, batch=4, patch=12, learning_rate=5e-3,
)  # fmt: skip


def test_training_learns_and_is_recognised(photos: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    out = tmp_path / "small.safetensors"
    result = train_dense(
        CONFIG, DataConfig(photos=photos), out, lambda p: seen.append(p.figures["psnr"])
    )
    assert result.psnr > seen[0] + 5
    assert load_model(out).description.options["features"] == 8
    assert list(tmp_path.iterdir()) == [out]


def test_interrupted_training_goes_on_to_the_same_bits(photos: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    data = DataConfig(photos=photos)

    def interrupt(progress: Progress) -> None:
        if progress.done == 31:
            raise KeyboardInterrupt

    train_dense(CONFIG, data, whole)
    with pytest.raises(KeyboardInterrupt):
        train_dense(CONFIG, data, cut, interrupt)
    train_dense(CONFIG, data, cut)
    assert hash_file(whole) == hash_file(cut)


def test_unknown_argument_of_the_network_is_refused(photos: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"options": {"colour": 3}})
    with pytest.raises(SlsError, match="colour"):
        train_dense(config, DataConfig(photos=photos), tmp_path / "x.safetensors")
