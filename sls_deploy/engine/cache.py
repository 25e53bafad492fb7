"""Engines that were built before, found again by what they were built from."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from sls_deploy.engine.device import Device
from sls_deploy.engine.request import BuildAnswer
from sls_deploy.errors import SlsError
from sls_deploy.files import atomic, disk_errors, hash_file, write_json

_PLAN, _ANSWER = "engine.plan", "answer.json"


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that stands on disk, and what its build told."""

    plan: Path
    """The engine."""
    plan_sha256: str
    """SHA-256 of it."""
    answer: BuildAnswer
    """What the builder told."""
    seconds: float
    """Wall time of the build."""
    device: Device | None = None
    """The GPU that kernels were timed on, as it was right after the build; None if none were."""


@dataclass(frozen=True)
class EngineCache:
    """A folder of engines, the least used of which go when it grows too large."""

    folder: Path
    """Where they are; made when the first is kept."""
    limit_mib: int
    """Most space, in MiB; 0 keeps none."""

    def take(self, key: str, to: Path) -> BuiltEngine | None:
        """Copy the engine built from these inputs; None if there is none, or it is damaged.

        Args:
            key: hash of everything that an engine depends on.
            to: where it is copied to; left as it is where None is returned.

        Raises:
            SlsError: the copy cannot be written.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        # Another process may be making room, or replacing a damaged engine.
        with FileLock(self.folder / ".lock"):
            try:
                found = TypeAdapter(BuiltEngine).validate_json((entry / _ANSWER).read_bytes())
                if hash_file(entry / _PLAN) != found.plan_sha256:
                    return None
                os.utime(entry)
            except (OSError, ValueError, SlsError):
                return None
            with atomic(to) as temporary:
                shutil.copyfile(entry / _PLAN, temporary)
        return replace(found, plan=to)

    def keep(self, key: str, built: BuiltEngine) -> None:
        """Copy an engine into the cache, and make room for it.

        Raises:
            SlsError: the folder cannot be written.
        """
        size = built.plan.stat().st_size
        if size > self.limit_mib << 20:
            return
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.folder / ".lock"):
                self._make_room(size)
                made = Path(tempfile.mkdtemp(dir=self.folder, prefix="."))
                shutil.copyfile(built.plan, made / _PLAN)
                write_json(made / _ANSWER, {**asdict(built), "plan": _PLAN})
                shutil.rmtree(self.folder / key, ignore_errors=True)
                made.rename(self.folder / key)

    def _make_room(self, size: int) -> None:
        """Remove the engines that were not used for longest until `size` bytes fit."""
        entries = [entry for entry in self.folder.iterdir() if entry.is_dir()]
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: _size(entry) for entry in entries}
        used = sum(sizes.values())
        for entry in entries:
            if used + size <= self.limit_mib << 20:
                return
            shutil.rmtree(entry)
            used -= sizes[entry]


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.iterdir() if path.is_file())
