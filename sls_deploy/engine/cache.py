"""Engines that were built before, found again by what they were built from."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from sls_deploy.engine.request import BuildAnswer
from sls_deploy.errors import SlsError
from sls_deploy.files import disk_errors, hash_file, write_json

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


@dataclass(frozen=True)
class EngineCache:
    """A folder of engines, the least used of which go when it grows too large."""

    folder: Path
    """Where they are; made when the first is kept."""
    limit_mib: int
    """Most space, in MiB; 0 keeps none."""

    def find(self, key: str) -> BuiltEngine | None:
        """The engine built from these inputs; None if there is none, or it is damaged.

        Args:
            key: hash of everything that an engine depends on.
        """
        entry = self.folder / key
        try:
            found = TypeAdapter(BuiltEngine).validate_json((entry / _ANSWER).read_bytes())
            plan = entry / _PLAN
            if hash_file(plan) != found.plan_sha256:
                return None
            os.utime(entry)
        except (OSError, ValueError, SlsError):
            return None
        return BuiltEngine(plan, found.plan_sha256, found.answer, found.seconds)

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
