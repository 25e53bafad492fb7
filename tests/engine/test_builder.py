from __future__ import annotations

import pytest

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.builder import build_engine
from sls_deploy.engine.request import BuildRequest
from sls_deploy.engine.vendor_log import VendorLog

FLAGS = ("SPARSE_WEIGHTS", "TF32")


class Aimed(Exception):  # noqa: N818
    """Ends a build before it takes its time."""


def test_fp32_stays_fp32_and_sparse_kernels_are_allowed(request_small: BuildRequest) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    seen: dict[str, bool] = {}

    def flags_of(config: object) -> dict[str, bool]:
        return {name: config.get_flag(getattr(trt.BuilderFlag, name)) for name in FLAGS}  # type: ignore[attr-defined]

    def aim(_: object, config: object, architecture: str) -> None:
        seen.update(flags_of(config))
        raise Aimed(architecture)

    with pytest.raises(Aimed, match="sm86"):
        build_engine(Backend("tensorrt_rtx", "cpu", lambda _: "", aim), request_small)
    fresh = trt.Builder(VendorLog(trt).logger).create_builder_config()
    assert flags_of(fresh) == {"SPARSE_WEIGHTS": False, "TF32": True}
    assert seen == {"SPARSE_WEIGHTS": True, "TF32": False}
