"""The whole examination: everything is tried, nothing that breaks can end it."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sls_deploy.doctor import facts
from sls_deploy.doctor.abilities import abilities
from sls_deploy.doctor.ask import Answer, ask
from sls_deploy.doctor.diagnosis import Diagnosis, Finding
from sls_deploy.doctor.graphics import check_driver, check_gpu
from sls_deploy.doctor.machine import examine_machine
from sls_deploy.doctor.software import (
    check_build,
    check_execution,
    check_module,
    check_onnx,
    check_onnxruntime,
    check_provider,
    check_torch,
)
from sls_deploy.files import cache_folder

_MODULES = ("tensorrt", "tensorrt_rtx")
_AT_ONCE = 2
"""Probes at a time: each computes for a second or two and takes a few hundred MiB."""


def examine(folder: Path) -> Diagnosis:
    """Find out what of sls-deploy works on this machine, in some seconds.

    Args:
        folder: where runs would be kept.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sls-deploy-") as scratch,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        torch = pool.submit(ask, facts.Torch, "torch")
        runtime = pool.submit(_onnxruntime)
        trials = {name: pool.submit(_tensorrt, name, scratch) for name in _MODULES}
        onnx = pool.submit(ask, facts.Packages, "onnx")
        packages = ask(facts.Packages, "packages")
        driver = ask(facts.Gpu, "gpu")
        gpu = driver.facts or facts.Gpu("", None, f"asking the driver {driver.trouble}")
        modules = {name: trial.result()[0] for name, trial in trials.items()}
        builds = {name: trial.result()[1] for name, trial in trials.items()}
        made = {name: answer for name, answer in builds.items() if answer is not None}
        runs = {
            name: ask(facts.Execution, "execute", name, answer.facts.plan)
            for name, answer in made.items()
            if answer.facts is not None and gpu.device is not None
        }
    installed = packages.facts.versions if packages.facts else {}
    session, providers = runtime.result()
    present = gpu.device is not None
    built_for = torch.result().facts
    findings: list[Finding] = [
        *examine_machine(folder, cache_folder()),
        *check_gpu(gpu),
        check_driver(gpu, built_for.cuda if built_for else None, installed),
        check_torch(torch.result(), gpu),
        check_onnx(onnx.result()),
        check_onnxruntime(session, installed),
        *(check_provider(name, answer, gpu=present) for name, answer in providers.items()),
        *(check_module(name, answer, gpu=present) for name, answer in modules.items()),
        *(check_build(name, answer) for name, answer in made.items()),
        *(check_execution(name, answer) for name, answer in runs.items()),
    ]
    return Diagnosis(tuple(findings), abilities(findings, made, runs))


def _onnxruntime() -> tuple[Answer[facts.OnnxRuntime], dict[str, Answer[facts.Provider]]]:
    """ONNX Runtime, and each provider but the CPU's, which it has run on by then."""
    session = ask(facts.OnnxRuntime, "onnxruntime")
    names = session.facts.providers if session.facts else ()
    return session, {
        name: ask(facts.Provider, "provider", name)
        for name in names
        if name != "CPUExecutionProvider"
    }


def _tensorrt(name: str, scratch: str) -> tuple[Answer[facts.Module], Answer[facts.Build] | None]:
    """A flavour of TensorRT, and the tiny engine that it built if it can be imported."""
    module = ask(facts.Module, "module", name)
    return module, None if module.facts is None else ask(facts.Build, "build", name, scratch)
