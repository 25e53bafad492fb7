"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# As the program does, before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A loaded machine is slow; a slow example is no wrong one.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of benchmarks and checkpoints that are not part of the project."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SLS_DEPLOY_DATA", default))
    if not folder.is_dir():
        pytest.skip("needs the benchmark pictures and checkpoints: set SLS_DEPLOY_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLS_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
