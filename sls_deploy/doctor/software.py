"""What the packages are, whether they work, and what mends them."""

from __future__ import annotations

import re

from sls_deploy.doctor import facts
from sls_deploy.doctor.ask import Answer
from sls_deploy.doctor.diagnosis import Finding
from sls_deploy.doctor.probes import NOT_INSTALLED, ONLY_STUBS

CPU_EXTRA = "pip install 'sls-deploy[cpu]'"
GPU_EXTRA = "pip install 'sls-deploy[gpu]'"
BASE = "pip install --force-reinstall sls-deploy"
_LEAST = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 3)}
"""Oldest versions that the extras install."""
_MISSING_LIBRARY = re.compile(r"with error: (\S+): cannot open shared object file")
_WANTED_LIBRARIES = re.compile(r"Require (cuDNN \d+)[.*]* and (CUDA \d+)")
"""ONNX Runtime prints them and has no other way to tell them."""


def check_torch(found: Answer[facts.Torch], gpu: facts.Gpu | None) -> Finding:
    """PyTorch, and whether it sees the GPU that the driver shows."""
    if found.facts is None:
        return Finding("PyTorch", "broken", found.trouble, BASE)
    torch, present = found.facts, gpu is not None and gpu.device is not None
    if torch.cuda is None:
        says = f"{torch.version}, built without CUDA"
        if not present:
            return Finding("PyTorch", "ok", says)
        fix = "Install a PyTorch with CUDA support from pytorch.org."
        return Finding("PyTorch", "warning", f"{says}, so it does not see the GPU", fix)
    says = f"{torch.version}, built for CUDA {torch.cuda}"
    if not torch.refusal:
        return Finding("PyTorch", "ok", f"{says}, computes on the GPU")
    if not present:
        return Finding("PyTorch", "ok", f"{says}, sees no GPU")
    fix = "Install a PyTorch for the driver's CUDA from pytorch.org, or update the driver."
    return Finding("PyTorch", "broken", f"{says}, does not use the GPU: {torch.refusal}", fix)


def check_onnx(found: Answer[facts.Packages]) -> Finding:
    """What reads and writes graphs."""
    if found.facts is None:
        return Finding("ONNX", "broken", found.trouble, BASE)
    says = ", ".join(f"{name} {version}" for name, version in found.facts.versions.items())
    return Finding("ONNX", "ok", says)


def check_onnxruntime(found: Answer[facts.OnnxRuntime], installed: dict[str, str]) -> Finding:
    """ONNX Runtime, of which there may be one only."""
    flavours = sorted(name for name in installed if name.split("-")[0] == "onnxruntime")
    extra = GPU_EXTRA if "onnxruntime-gpu" in flavours else CPU_EXTRA
    again = f"pip uninstall -y {' '.join(flavours)} && {extra}"
    if len(flavours) > 1:
        both = " and ".join(f"{name} {installed[name]}" for name in flavours)
        says = f"{both} are both installed and overwrite each other's files"
        if found.facts is None:
            return Finding("ONNX Runtime", "broken", f"{says}: {found.trouble}", again)
        return Finding("ONNX Runtime", "warning", f"{says}; it still runs on the CPU", again)
    if found.facts is not None:
        name = flavours[0] if flavours else "onnxruntime"
        return Finding("ONNX Runtime", "ok", f"{name} {found.facts.version}")
    fix = again if flavours else CPU_EXTRA
    return Finding("ONNX Runtime", "broken", found.trouble, fix)


def check_provider(name: str, found: Answer[facts.Provider], *, gpu: bool) -> Finding:
    """One thing that ONNX Runtime claims to run on."""
    if found.facts is not None:
        return Finding(name, "ok", "ran a tiny network")
    missing = _MISSING_LIBRARY.search(found.printed)
    says = found.trouble + (f": {missing[1]} is missing" if missing else "")
    if not gpu or name != "CUDAExecutionProvider":
        return Finding(name, "absent", says)
    wanted = _WANTED_LIBRARIES.search(found.printed)
    libraries = f"{' and '.join(wanted.groups())}: " if wanted else ""
    fix = f"{libraries}pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return Finding(name, "warning", says, fix)


def check_module(name: str, found: Answer[facts.Module], *, gpu: bool) -> Finding:
    """One flavour of TensorRT."""
    wanted = (name == "tensorrt") == gpu
    fix = GPU_EXTRA if name == "tensorrt" else CPU_EXTRA
    if found.facts is not None:
        version = found.facts.version
        if tuple(map(int, re.findall(r"\d+", version)[:2])) >= _LEAST[name]:
            return Finding(name, "ok", version)
        least = ".".join(map(str, _LEAST[name]))
        return Finding(name, "warning", f"{version}, older than {least}", f"{fix} --upgrade")
    if found.trouble == NOT_INSTALLED:
        return Finding(name, "absent", found.trouble, fix if wanted else "")
    if found.trouble.startswith(ONLY_STUBS):
        remove = "pip uninstall -y tensorrt-stubs"
        fix = f"{remove} && {fix}" if wanted else ""
        return Finding(name, "warning" if wanted else "absent", found.trouble, fix)
    return Finding(name, "broken", found.trouble, f"{fix} --force-reinstall")


def check_build(name: str, found: Answer[facts.Build]) -> Finding:
    """A tiny engine of one flavour of TensorRT."""
    if found.facts is None:
        return Finding(f"{name}: build", "warning", found.trouble)
    built = found.facts
    says = f"a tiny engine for {', '.join(built.targets)}: {built.seconds:g} s, "
    return Finding(f"{name}: build", "ok", f"{says}{built.peak_mib} MiB")


def check_execution(name: str, found: Answer[facts.Execution]) -> Finding:
    """A tiny engine on the GPU."""
    if found.facts is None:
        return Finding(f"{name}: run", "broken", found.trouble)
    says = f"the tiny engine gave what it must, {found.facts.milliseconds:.3f} ms"
    return Finding(f"{name}: run", "ok", says)
