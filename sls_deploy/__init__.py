"""Search N:M sparsity for image restoration networks and deploy it to TensorRT.

The public API. Names are imported when they are first used, so that `import sls_deploy` is quick
and a missing TensorRT breaks only what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sls_deploy._version import __version__
from sls_deploy.errors import GateError, SlsError

if TYPE_CHECKING:
    from sls_deploy.config import Config
    from sls_deploy.config_file import read_config
    from sls_deploy.engine.stage import build_engines
    from sls_deploy.export.stage import export_onnx
    from sls_deploy.models.model import load_model
    from sls_deploy.restore.stage import restore_files
    from sls_deploy.run import Run
    from sls_deploy.search.dense import train_dense
    from sls_deploy.search.stage import search_budgets
    from sls_deploy.validate.stage import validate_budget

__all__ = [
    "Config",
    "GateError",
    "Run",
    "SlsError",
    "__version__",
    "build_engines",
    "export_onnx",
    "load_model",
    "read_config",
    "restore_files",
    "search_budgets",
    "train_dense",
    "validate_budget",
]

_HOMES = {
    "Config": "config",
    "Run": "run",
    "build_engines": "engine.stage",
    "export_onnx": "export.stage",
    "load_model": "models.model",
    "read_config": "config_file",
    "restore_files": "restore.stage",
    "search_budgets": "search.stage",
    "train_dense": "search.dense",
    "validate_budget": "validate.stage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
