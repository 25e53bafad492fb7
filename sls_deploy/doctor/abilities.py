"""What works here, from what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sls_deploy.doctor import facts
from sls_deploy.doctor.ask import Answer
from sls_deploy.doctor.diagnosis import Ability, Finding
from sls_deploy.doctor.software import CPU_EXTRA, GPU_EXTRA

_MACHINE = ("Python", "working folder")


def abilities(
    findings: Sequence[Finding],
    builds: Mapping[str, Answer[facts.Build]],
    runs: Mapping[str, Answer[facts.Execution]],
) -> tuple[Ability, ...]:
    """What works on this machine.

    Args:
        findings: what was looked at.
        builds: the tiny engine of each TensorRT that is installed.
        runs: how it ran, where there is a GPU.
    """
    named = {item.name: item for item in findings}
    return (
        _needs("search", [*_MACHINE, "PyTorch"], named),
        _needs("export", [*_MACHINE, "PyTorch", "ONNX", "ONNX Runtime"], named),
        _build(builds, named),
        _needs("validate", [*_MACHINE, "PyTorch", "ONNX", "ONNX Runtime"], named),
        _run(runs, named),
    )


def _needs(name: str, parts: list[str], named: Mapping[str, Finding]) -> Ability:
    broken = _broken(parts, named)
    if broken is None:
        tried = [part for part in parts if part not in _MACHINE]
        return Ability(name, True, True, f"tried and found to work: {', '.join(tried)}")
    return Ability(name, False, True, f"{broken.name}: {broken.says}", broken.fix)


def _broken(parts: list[str], named: Mapping[str, Finding]) -> Finding | None:
    return next((named[part] for part in parts if named[part].state == "broken"), None)


def _build(builds: Mapping[str, Answer[facts.Build]], named: Mapping[str, Finding]) -> Ability:
    if broken := _broken([*_MACHINE, "ONNX"], named):
        return Ability("build", False, True, f"{broken.name}: {broken.says}", broken.fix)
    made = [
        f"{name} for {', '.join(answer.facts.targets)}"
        for name, answer in builds.items()
        if answer.facts is not None
    ]
    if made:
        return Ability("build", True, True, "; ".join(made))
    if not builds:
        return Ability("build", False, True, "no TensorRT is installed that works", CPU_EXTRA)
    says = "; ".join(f"{name}: {answer.trouble}" for name, answer in builds.items())
    return Ability("build", False, True, says, "" if "tensorrt_rtx" in builds else CPU_EXTRA)


def _run(runs: Mapping[str, Answer[facts.Execution]], named: Mapping[str, Finding]) -> Ability:
    name = "run and time engines"
    ran = [backend for backend, answer in runs.items() if answer.facts is not None]
    if ran:
        return Ability(name, True, False, f"{' and '.join(ran)} on {named['GPU'].says}")
    if runs:
        says = "; ".join(f"{backend}: {answer.trouble}" for backend, answer in runs.items())
        return Ability(name, False, False, says, named["CUDA driver"].fix or named["PyTorch"].fix)
    if named["GPU"].state == "absent":
        says = f"{named['GPU'].says}; engines built here are proven no further than L1"
        return Ability(name, False, False, says, f"On the machine with the GPU: {GPU_EXTRA}")
    return Ability(name, False, False, "no engine could be built to run", GPU_EXTRA)
