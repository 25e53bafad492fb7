"""What all tests share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
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


@pytest.fixture(scope="session", autouse=True)
def _translations_read_once() -> Iterator[None]:
    """PyTorch's exporter parses its 500 translations for every network; here once a process.

    It only looks things up in them: the files are equal to the byte.
    """
    if "torch" not in sys.modules:  # tests that need none start without it
        yield
        return
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # a PyTorch that keeps them elsewhere
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))
        )
        yield


def few_passes(patch: pytest.MonkeyPatch, passes: int = 16) -> None:
    """Let a search estimate from few backward passes: rough figures are enough to choose by."""
    from sls_deploy.search import reconstruction

    patch.setattr(reconstruction, "_PASSES", passes)


def module_of_few_passes(passes: int) -> object:
    """A fixture that lets all searches of a module estimate from few backward passes."""

    @pytest.fixture(scope="module", autouse=True)
    def few() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            few_passes(patch, passes)
            yield

    return few


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a folder once for all processes of a test run: its name, what fills it.

    The first that asks makes it, the others wait. Nobody may change it afterwards.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = shared / f"{name}-once", shared / f"{name}-once.whole"
        with FileLock(shared / f"{name}-once.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # half of it, by one that failed
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make
