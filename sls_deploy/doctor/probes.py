"""What is tried, each in a process of its own: `python -m sls_deploy.doctor.probes NAME ...`.

A broken package may raise anything or end the process when it is imported; here that ends only
the probe. What a probe found, or how it failed, is written to the file that it is given.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from sls_deploy.doctor import facts
from sls_deploy.errors import SlsError, reason

NOT_INSTALLED = "is not installed"
ONLY_STUBS = "only type stubs are installed"
_OURS = re.compile(r"(onnx|onnxruntime|tensorrt|torch|nvidia-ml-py|pynvml)\b")
_ERRORS = 3
"""ONNX Runtime's log level that prints errors."""
_BUILD_SECONDS = 60


def packages() -> facts.Packages:
    """What the package manager knows of the packages that matter."""
    found = {}
    for item in metadata.distributions():
        name = str(item.metadata["Name"]).lower().replace("_", "-")
        if _OURS.match(name):
            found[name] = item.version
    return facts.Packages(found)


def torch() -> facts.Torch:
    """PyTorch computes, and sees a GPU or says why not."""
    import torch

    ones = torch.ones(1, 4, 8, 8)
    # Some builds stop here, with an instruction that the processor does not have.
    torch.nn.functional.conv2d(ones, torch.ones(4, 4, 3, 3)).sum().item()
    refusal = ""
    if torch.version.cuda is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                torch.ones(1, device="cuda").sum().item()
            except Exception as error:  # drivers, libraries and GPUs fail in as many ways
                refusal = reason(error)
    return facts.Torch(torch.__version__, torch.version.cuda, refusal)


def onnx() -> facts.Packages:
    """What reads and writes graphs, with its versions."""
    names = ("onnx", "onnx_ir", "onnxscript", "onnxslim")
    return facts.Packages({name: _version(importlib.import_module(name)) for name in names})


def onnxruntime() -> facts.OnnxRuntime:
    """ONNX Runtime on the CPU, and what else it claims to run on."""
    import onnxruntime

    _run_on("CPUExecutionProvider")
    return facts.OnnxRuntime(_version(onnxruntime), tuple(onnxruntime.get_available_providers()))


def provider(name: str) -> facts.Provider:
    """One provider of ONNX Runtime runs a graph by itself."""
    import onnxruntime

    # CUDA and cuDNN come as packages of Python, too, where the system's loader does not look.
    onnxruntime.preload_dlls()
    _run_on(name)
    return facts.Provider(name)


def _run_on(name: str) -> None:
    """Run the tiny network; ONNX Runtime would silently take the CPU for what fails to load."""
    import numpy as np

    from sls_deploy.doctor.tiny import INPUT, OUTPUT, tiny_input

    session = _session(name)
    if name not in session.get_providers():
        # What could not be loaded is printed and nowhere else; `ask` reads it.
        raise SlsError("does not load, the CPU stands in")
    if name != "CPUExecutionProvider":
        try:
            session = _session(name, fallback=False)
        except Exception:  # ONNX Runtime's errors share no class of their own
            raise SlsError("loads, but leaves the network to the CPU") from None
    given = tiny_input()
    (output,) = session.run([OUTPUT], {INPUT: given})
    if not np.array_equal(output, given):
        raise SlsError("computes wrong values")


def _session(name: str, *, fallback: bool = True) -> Any:
    import onnxruntime

    from sls_deploy.doctor.tiny import tiny_network

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    if not fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return onnxruntime.InferenceSession(tiny_network().SerializeToString(), options, [name])


def gpu() -> facts.Gpu:
    """The driver of the GPU, and the GPU."""
    from sls_deploy.engine.device import cuda_version, present_device
    from sls_deploy.engine.gpu import load_driver

    driver = load_driver()
    if driver is None:
        return facts.Gpu("", None, "no NVIDIA driver is installed")
    if code := driver.cuInit(0):
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        told = text.value.decode("utf-8", "replace") if text.value else f"CUDA error {code}"
        return facts.Gpu(cuda_version(driver), None, f"the NVIDIA driver says: {told}{_hidden()}")
    device = present_device()
    trouble = "" if device else f"the NVIDIA driver shows no GPU{_hidden()}"
    return facts.Gpu(cuda_version(driver), device, trouble)


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is '{visible}')"


def module(name: str) -> facts.Module:
    """A module of TensorRT; a folder of type stubs is none."""
    found = importlib.import_module(name)
    if hasattr(found, "Builder"):
        return facts.Module(_version(found))
    folders = [Path(folder) for folder in getattr(found, "__path__", [])]
    stubs = next((folder for folder in folders if (folder / "__init__.pyi").is_file()), None)
    if stubs is not None:
        raise SlsError(f"{ONLY_STUBS} ({stubs}), not the library")
    raise SlsError(f"is something else ({', '.join(map(str, folders)) or found.__file__})")


def build(name: str, folder: str) -> facts.Build:
    """A tiny engine for every GPU generation that a backend builds for here."""
    from sls_deploy.config import ARCHITECTURES
    from sls_deploy.doctor.tiny import INPUT, SHAPE, tiny_network
    from sls_deploy.engine.backends import BACKENDS
    from sls_deploy.engine.process import run_worker
    from sls_deploy.engine.request import BuildRequest

    refusals = {item: BACKENDS[name].refusal(item) for item in ARCHITECTURES}
    targets = tuple(item for item in ARCHITECTURES if not refusals[item])
    if not targets:
        raise SlsError(next(iter(refusals.values())))
    source, plan = Path(folder, f"{name}.onnx"), Path(folder, f"{name}.plan")
    source.write_bytes(tiny_network().SerializeToString())
    request = BuildRequest(
        backend=name,
        architectures=targets,
        onnx=str(source),
        plan=str(plan),
        input_name=INPUT,
        min_shape=SHAPE,
        opt_shape=SHAPE,
        max_shape=SHAPE,
    )
    start = time.monotonic()
    answer = run_worker(request, _BUILD_SECONDS)
    seconds = round(time.monotonic() - start, 1)
    return facts.Build(targets, str(plan), seconds, answer.peak_mib)


def execute(name: str, plan: str) -> facts.Execution:
    """A built engine on the first visible GPU."""
    import numpy as np

    from sls_deploy.doctor.tiny import SHAPE, tiny_input
    from sls_deploy.engine.backends import BACKENDS
    from sls_deploy.runtime.loaded_engine import LoadedEngine

    engine = LoadedEngine(BACKENDS[name], Path(plan).read_bytes(), plan)
    given = tiny_input()
    if not np.array_equal(engine.run(given), given):
        raise SlsError("the GPU computes wrong values")
    milliseconds = engine.stopwatch(SHAPE)()
    engine.close()
    return facts.Execution(milliseconds)


def _version(module: Any) -> str:
    return str(getattr(module, "__version__", "of unknown version"))


_PROBES: dict[str, Callable[..., Any]] = {
    probe.__name__: probe
    for probe in (packages, torch, onnx, onnxruntime, provider, gpu, module, build, execute)
}


def main() -> None:
    """Run the probe that the arguments name: answer file, probe, its own arguments."""
    answer, name, *given = sys.argv[1:]
    found: dict[str, Any]
    try:
        found = {"facts": asdict(_PROBES[name](*given))}
    except ModuleNotFoundError as error:
        ours = error.name in (name, *given)
        found = {"trouble": NOT_INSTALLED if ours else reason(error)}
    except SlsError as error:
        found = {"trouble": str(error)}
    except Exception as error:  # whatever a broken package comes up with
        found = {"trouble": reason(error)}
    Path(answer).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
