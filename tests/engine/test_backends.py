from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.engine import tensorrt
from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import BACKENDS, choose_backend
from sls_deploy.errors import SlsError


def test_type_stubs_alone_are_not_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_stubs").mkdir()
    (tmp_path / "only_stubs" / "__init__.pyi").write_text("class Builder: ...")
    monkeypatch.syspath_prepend(tmp_path)
    rtx = BACKENDS["tensorrt_rtx"]
    stubs = replace(rtx, name="only_stubs")  # type: ignore[arg-type]
    assert stubs.load() is None
    assert stubs.version is None


def test_rtx_is_installed_and_tells_its_version() -> None:
    version = BACKENDS["tensorrt_rtx"].version
    assert version is not None
    assert version.split(".")[0].isdigit()


@pytest.mark.parametrize("architecture", ["sm80", "sm86", "sm89"])
def test_rtx_builds_for_each_architecture_without_a_gpu(architecture: str) -> None:
    assert choose_backend("tensorrt_rtx", architecture).name == "tensorrt_rtx"


def test_auto_takes_rtx_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: None)
    assert choose_backend("auto", "sm86").name == "tensorrt_rtx"


def test_rtx_refuses_an_architecture_that_it_does_not_know() -> None:
    with pytest.raises(SlsError, match="builds for sm80, sm86, sm89 here, not sm70"):
        choose_backend("tensorrt_rtx", "sm70")


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (None, "there is none here"),
        ("sm89", "compute capability is 8.9, not 8.6"),
        ("sm86", ""),
    ],
)
def test_tensorrt_builds_only_for_the_gpu_that_is_present(
    monkeypatch: pytest.MonkeyPatch, present: str | None, reason: str
) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: present)
    refusal = tensorrt.BACKEND.refusal("sm86")
    assert reason in refusal
    assert bool(refusal) == bool(reason)


def test_a_refusal_names_the_reason_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "load", lambda self: None)
    with pytest.raises(SlsError, match=r"tensorrt is not installed.*pip install") as caught:
        choose_backend("tensorrt", "sm86")
    assert caught.value.where == "sm86"


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, sls_deploy.engine.stage, sls_deploy.runtime.tensorrt;"
        "sys.exit(', '.join({'torch', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "\n"
