"""Networks of the user's own: a factory in a Python file, named as path/to/file.py:factory.

The file is run, as the user asks by naming it. A file of weights never makes that happen: it holds
only the file's and the factory's name, see `load_model`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError, reason
from sls_deploy.files import hash_file, hash_json
from sls_deploy.models.architecture import Architecture, Description, StateDict
from sls_deploy.models.probe import probe

_LISTED = 5
_FORM = "path/to/file.py:factory"


def is_own(name: str) -> bool:
    """Whether the name of a network is that of a factory in a file."""
    return ".py:" in name or name.endswith(".py")


def short_name(name: str) -> str:
    """File and factory without the folder, as descriptions hold them."""
    path, factory = split_name(name)
    return f"{path.name}:{factory}"


def absolute(name: str) -> str:
    """The name with a path that holds from any folder; other names as they are."""
    if not is_own(name):
        return name
    path, factory = split_name(name)
    return f"{path.resolve()}:{factory}"


def code_hash(name: str) -> str:
    """Hash of the user's file and of those below its folder that it imports; '' for other names.

    Raises:
        SlsError: the file cannot be run.
    """
    if not is_own(name):
        return ""
    path = split_name(name)[0].resolve()
    _run(path, hash_file(path))
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    beside = {Path(file) for file in loaded if file and Path(file).is_relative_to(path.parent)}
    files = sorted({path, *(file for file in beside if "site-packages" not in file.parts)})
    return hash_json({str(file.relative_to(path.parent)): hash_file(file) for file in files})


def split_name(name: str) -> tuple[Path, str]:
    """The file and the name of the factory.

    Raises:
        SlsError: the name is not of that form.
    """
    path, _, factory = name.rpartition(":")
    if not path or not factory.isidentifier():
        raise SlsError("names no factory", name, f"Write it as {_FORM}.")
    return Path(path), factory


def load_architecture(wanted: ModelConfig) -> Architecture:
    """Run the user's file and take its factory.

    Raises:
        SlsError: no such file or factory, or the file raises; says where.
    """
    path, name = split_name(wanted.name)
    if not path.is_file():
        raise SlsError("no such file", str(path), f"Write the model as {_FORM}.")
    factory = _factory(path, name)
    options = wanted.options

    def build(**given: Any) -> nn.Module:
        return _call(factory, given, wanted.name)

    def recognise(_: StateDict, __: int | None) -> Description:
        return probe(build(**options), short_name(wanted.name), wanted)

    return Architecture(
        name=short_name(wanted.name),
        paper=f"your own, {path}",
        build=build,
        recognise=recognise,
        light=False,
    )


def _factory(path: Path, name: str) -> Callable[..., Any]:
    """The callable of that name in a file."""
    module = _run(path.resolve(), hash_file(path))
    found = getattr(module, name, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__
    ]
    there = ", ".join(own[:_LISTED]) + (", ..." if len(own) > _LISTED else "") or "none"
    raise SlsError(f"has no factory {name} (there: {there})", str(path), f"Write it as {_FORM}.")


@lru_cache(maxsize=8)
def _run(path: Path, digest: str) -> Any:
    """Import a file once; what lies beside it can be imported by it."""
    name = f"_sls_deploy_own_{digest[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise SlsError(f"cannot be run ({reason(error)})", _place(error, path)) from None
    return module


def _call(factory: Callable[..., Any], options: dict[str, Any], name: str) -> nn.Module:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    call = f"{split_name(name)[1]}({given})"
    try:
        network = factory(**options)
    except SlsError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        path = split_name(name)[0].resolve()
        fix = "Set its arguments as model.options in the settings."
        raise SlsError(f"{call} raised {reason(error)}", _place(error, path), fix) from None
    if not isinstance(network, nn.Module):
        what = f"{call} returned a {type(network).__name__}, not a torch.nn.Module"
        raise SlsError(what, name)
    return network


def _place(error: BaseException, path: Path) -> str:
    """The file with the last line of it that the error passed through."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno or 0
    return f"{path}:{line}" if line else str(path)
