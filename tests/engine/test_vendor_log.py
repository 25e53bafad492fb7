from __future__ import annotations

from typing import Any

import pytest

from sls_deploy.engine.vendor_log import VendorLog, clean, first_cause

MIXED_TYPES = """\
Invalid Node - conv0
ITensor::getDimensions: Error Code 4: API Usage Error (conv0: `input` and `kernel` must be of \
same type. In validateTypes at /_src/optimizer/common/nodes/convolutionNode.cpp:88)
[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at \
/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient))"""


def test_the_cause_is_told_without_noise_before_and_after() -> None:
    assert first_cause(MIXED_TYPES) == "conv0: `input` and `kernel` must be of same type"


@pytest.mark.parametrize(
    "line",
    [
        'ModelImporter.cpp:140: While parsing node number 2 [Frobnicate -> "r0"]:',
        "ModelImporter.cpp:142: --- Begin node ---",
        "Node name: relu0",
        "",
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
        "/_src/x.cpp:250 (cudaError 35: CUDA driver version is insufficient))",
    ],
)
def test_lines_without_a_cause_are_passed_over(line: str) -> None:
    assert clean(line) == ""


def test_memory_errors_keep_their_words() -> None:
    line = "[virtualMemoryBuffer.cpp::resize::154] Error Code 2: OutOfMemory (no further info)"
    assert clean(line) == "OutOfMemory (no further info)"


def test_what_the_vendor_says_of_sparsity_is_kept_whatever_its_level() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx")
    log = VendorLog(trt)
    said = ["(Sparsity) Layers eligible for sparse math: a", "(Sparsity) Chose 0 layer(s)"]
    levels = [trt.ILogger.Severity.INFO, trt.ILogger.Severity.VERBOSE]
    for level, line in zip(levels, said, strict=True):
        log.logger.log(level, line)
    log.logger.log(trt.ILogger.Severity.INFO, "Total Activation Memory: 7864832")
    assert (log.sparsity, log.warnings, log.errors) == (said, [], [])
