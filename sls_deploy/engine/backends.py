"""The builders that sls-deploy knows, and which of them serves an architecture here."""

from __future__ import annotations

from sls_deploy.engine import tensorrt, tensorrt_rtx
from sls_deploy.engine.backend import Backend
from sls_deploy.errors import SlsError

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (tensorrt.BACKEND, tensorrt_rtx.BACKEND)
}
"""By name; 'auto' tries them in this order."""


def choose_backend(name: str, architecture: str) -> Backend:
    """The builder to use for an architecture on this machine.

    Args:
        name: 'tensorrt', 'tensorrt_rtx', or 'auto' for the first that can.
        architecture: such as 'sm86'.

    Raises:
        SlsError: the builder is not installed, or it cannot build for that architecture here.
    """
    candidates = list(BACKENDS.values()) if name == "auto" else [BACKENDS[name]]
    reasons = []
    for backend in candidates:
        if backend.load() is None:
            reason = f"{backend.name} is not installed (extra '{backend.extra}')"
        elif refusal := backend.refusal(architecture):
            reason = f"{backend.name}: {refusal}"
        else:
            return backend
        reasons.append(reason)
    fix = "`pip install 'sls-deploy[cpu]'` brings tensorrt_rtx, which needs no GPU to build."
    if tensorrt_rtx.BACKEND.load() is not None:
        fix = "Take backend tensorrt_rtx, or an architecture of sm80, sm86 and sm89."
    raise SlsError("cannot be built here: " + "; ".join(reasons), architecture, fix)
