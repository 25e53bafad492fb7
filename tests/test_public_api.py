from __future__ import annotations

import subprocess
import sys

import pytest

import sls_deploy


@pytest.mark.parametrize("name", sls_deploy.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sls_deploy, name)
    assert name == "__version__" or value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="prune_everything"):
        _ = sls_deploy.prune_everything


@pytest.mark.parametrize("module", ["sls_deploy", "sls_deploy.engine.stage", "sls_deploy.runtime.tensorrt", "sls_deploy.runtime.onnxruntime", "sls_deploy.cli.main"])  # fmt: skip  # noqa: E501
def test_import_brings_no_torch_and_no_tensorrt(module: str) -> None:
    code = (
        f"import sys, {module}; print({{'torch', 'tensorrt', 'tensorrt_rtx'}} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True).strip() == "set()"
