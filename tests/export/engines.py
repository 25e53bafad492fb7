"""Engines that tests build for real, without a GPU."""

from __future__ import annotations

from pathlib import Path

from sls_deploy.engine.process import run_worker
from sls_deploy.engine.request import BuildAnswer, BuildRequest, Dimensions

_SECONDS = 120


def built(
    content: bytes, plan: Path, smallest: Dimensions, usual: Dimensions, largest: Dimensions
) -> BuildAnswer:
    """Build a graph with TensorRT for RTX into a plan; the sizes are those of its input."""
    path = plan.with_suffix(".onnx")
    path.write_bytes(content)
    request = BuildRequest(
        "tensorrt_rtx", ("sm86",), str(path), str(plan), "input", smallest, usual, largest
    )
    return run_worker(request, _SECONDS)
