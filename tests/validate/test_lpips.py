"""LPIPS, where torchmetrics and torchvision are installed; what is said where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sls_deploy.errors import SlsError
from sls_deploy.validate import lpips as lpips_module
from sls_deploy.validate.lpips import LEAST_SIDE, Lpips


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(SlsError, match=r"LPIPS: needs torchmetrics .*'sls-deploy\[lpips\]'"):
        Lpips()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for the weights of AlexNet: an empty folder."""
    try:
        import torchmetrics.image.lpip
        from torchvision.models import AlexNet_Weights
    except Exception as error:  # torchvision beside another PyTorch
        pytest.skip(f"needs torchmetrics and torchvision: {error}")
    assert torchmetrics.image.lpip
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    file = tmp_path / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    file.parent.mkdir()
    return file


def test_damaged_weights_are_never_loaded(weights: Path) -> None:
    weights.write_bytes(b"half of a file")
    with pytest.raises(SlsError, match=r"alexnet.*\.pth: is not AlexNet .* its SHA-256 begins"):
        Lpips()


def test_weights_that_cannot_be_fetched_are_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(SlsError, match=r"alexnet.*\.pth: cannot be downloaded .*Put http.* there"):
        Lpips()


def test_the_farther_the_larger(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random weights in place of AlexNet's: they show that it runs, not that its figures are right.
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).state_dict(), weights)
    monkeypatch.setattr(lpips_module, "hash_file", lambda _: weights.stem[-8:])
    lpips = Lpips()
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (64, 80, 3), np.uint8)
    scores = []
    for deviation in (0, 10, 40):
        noise = random.normal(0, deviation, picture.shape)
        scores.append(lpips(picture, np.clip(picture + noise, 0, 255).astype(np.uint8)))
    assert 0 == scores[0] < scores[1] < scores[2]
    small = picture[: LEAST_SIDE - 1]
    assert lpips(picture[:LEAST_SIDE], picture[:LEAST_SIDE]) == 0
    with pytest.raises(SlsError, match=r"cannot compare pictures of 80x30 and 80x30"):
        lpips(small, small)
    with pytest.raises(SlsError, match=r"cannot compare pictures of 80x64 and 80x30"):
        lpips(picture, small)
