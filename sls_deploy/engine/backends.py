"""The builders that sls-deploy knows, and which of them serves a target here."""

from __future__ import annotations

from sls_deploy.config import BuildConfig
from sls_deploy.engine import tensorrt, tensorrt_rtx
from sls_deploy.engine.backend import Backend
from sls_deploy.errors import SlsError

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (tensorrt.BACKEND, tensorrt_rtx.BACKEND)
}
"""By name; 'auto' tries them in this order."""


def choose_backend(name: str, target: str) -> Backend:
    """The builder to use for a target on this machine.

    Args:
        name: 'tensorrt', 'tensorrt_rtx', or 'auto' for the first that can.
        target: such as 'sm86', or 'sm80+sm86' for one engine for both.

    Raises:
        SlsError: the builder is not installed, or it cannot build for that target here.
    """
    candidates = list(BACKENDS.values()) if name == "auto" else [BACKENDS[name]]
    reasons = []
    for backend in candidates:
        if backend.load() is None:
            reason = f"{backend.name} is not installed (extra '{backend.extra}')"
        elif refusal := backend.refusal(target):
            reason = f"{backend.name}: {refusal}"
        else:
            return backend
        reasons.append(reason)
    fix = "`pip install 'sls-deploy[cpu]'` brings tensorrt_rtx, which needs no GPU to build."
    if tensorrt_rtx.BACKEND.load() is not None:
        fix = "Take backend tensorrt_rtx, or targets of sm80, sm86 and sm89."
    raise SlsError("cannot be built here: " + "; ".join(reasons), target, fix)


def check_options(backend: Backend, options: BuildConfig) -> None:
    """Refuse settings that a builder would silently ignore.

    Raises:
        SlsError: names the first such setting, and says what to do instead.
    """
    for name, reason in backend.ignored.items():
        if getattr(options, name) != BuildConfig.model_fields[name].default:
            fix = "Leave it out, or take another backend."
            raise SlsError(f"{reason} (backend {backend.name})", f"build.{name}", fix)
    if backend.times_kernels and (options.jobs or 1) > 1:
        what = f"{backend.name} times kernels while it builds; two builds would disturb each other"
        raise SlsError(what, "build.jobs", "Leave it out, or give 1.")
