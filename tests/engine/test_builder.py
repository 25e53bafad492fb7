from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.builder import build_engine
from sls_deploy.engine.request import BuildOptions, BuildRequest
from sls_deploy.engine.vendor_log import VendorLog

FLAGS = ("SPARSE_WEIGHTS", "TF32", "VERSION_COMPATIBLE")


class Aimed(Exception):  # noqa: N818
    """Ends a build before it takes its time."""


def configured(request: BuildRequest) -> dict[str, object]:
    """What a builder's configuration holds when the build is about to begin."""
    trt = pytest.importorskip("tensorrt_rtx")
    seen: dict[str, object] = {}

    def aim(_: object, config: object, architectures: tuple[str, ...]) -> None:
        seen.update(settings_of(trt, config))
        raise Aimed(architectures)

    with pytest.raises(Aimed, match="sm86"):
        build_engine(replace(BACKENDS["tensorrt_rtx"], aim=aim), request)
    return seen


def settings_of(trt: Any, config: Any) -> dict[str, object]:
    return {
        **{name: config.get_flag(getattr(trt.BuilderFlag, name)) for name in FLAGS},
        "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "level": config.builder_optimization_level,
        "streams": config.max_aux_streams,
    }


def test_fp32_stays_fp32_and_sparse_kernels_are_allowed(request_small: BuildRequest) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    fresh = settings_of(trt, trt.Builder(VendorLog(trt).logger).create_builder_config())
    seen = configured(request_small)
    assert (fresh["SPARSE_WEIGHTS"], fresh["TF32"]) == (False, True)
    assert (seen["SPARSE_WEIGHTS"], seen["TF32"]) == (True, False)
    assert {name for name in seen if seen[name] != fresh[name]} == {"SPARSE_WEIGHTS", "TF32"}


def test_what_the_builder_is_told_arrives(request_small: BuildRequest) -> None:
    options = BuildOptions(
        sparse=False,
        workspace_mib=64,
        optimization_level=5,
        aux_streams=0,
        version_compatible=True,
    )
    seen = configured(replace(request_small, options=options))
    assert seen == {
        "SPARSE_WEIGHTS": False,
        "TF32": False,
        "VERSION_COMPATIBLE": True,
        "workspace": 64 << 20,
        "level": 5,
        "streams": 0,
    }


def test_a_small_workspace_is_kept_to(request_small: BuildRequest) -> None:
    request = replace(
        request_small, options=BuildOptions(workspace_mib=1), max_shape=(4, 3, 720, 1280)
    )
    answer = build_engine(BACKENDS["tensorrt_rtx"], request)
    assert "workspace" in answer.error


def test_one_engine_serves_several_gpus(request_small: BuildRequest) -> None:
    request = replace(request_small, architectures=("sm80", "sm86", "sm89"))
    answer = build_engine(BACKENDS["tensorrt_rtx"], request)
    assert answer.error == ""
    assert Path(request.plan).stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")
def test_kernel_times_that_cannot_be_kept_cost_no_engine(
    request_small: BuildRequest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    options = BuildOptions(timing_cache=str(tmp_path / "file" / "times.cache"))
    answer = build_engine(BACKENDS["tensorrt_rtx"], replace(request_small, options=options))
    assert Path(request_small.plan).stat().st_size > 10_000
    assert any("the times of kernels were not kept" in told for told in answer.warnings)
