"""The run folder: what each stage read and wrote, kept so that nothing is lost or done twice.

Every file is written under a temporary name and renamed. `manifest.json` records for each
finished stage the hash of its inputs and of each output; a stage whose hashes still hold is
skipped. One process at a time works in a folder.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sls_deploy.config import Config
from sls_deploy.config_file import read_config
from sls_deploy.errors import SlsError
from sls_deploy.files import disk_errors, hash_file, hash_json, write_json
from sls_deploy.process_memory import peak_mib

MANIFEST = "manifest.json"
CONFIG = "config.toml"
_PACKAGES = ("sls-deploy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt",
             "tensorrt-rtx", "numpy")  # fmt: skip


@dataclass(frozen=True)
class StageRecord:
    """What the manifest keeps of a finished stage."""

    inputs: str
    """SHA-256 over everything that the stage's result depends on."""
    outputs: dict[str, str]
    """SHA-256 of each file written, by its path in the run folder."""
    seconds: float
    """Wall time of the work."""
    peak_mib: int
    """Peak resident memory of the process, in MiB."""
    versions: dict[str, str]
    """Versions of the packages that did it."""
    machine: str
    """Operating system, processor and core count."""
    reads: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the run that it was made from, by its path in the run folder."""


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the folder, or take one that is empty or already a run.

        Raises:
            SlsError: the path is a file, a folder with other things in it, or cannot be written.
        """
        if path.is_file():
            raise SlsError("is a file", str(path), "Name a folder for the run.")
        if path.is_dir() and not (path / CONFIG).exists() and _visible(path):
            raise SlsError("is a folder with other files in it", str(path), "Name a new folder.")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Take an existing run.

        Raises:
            SlsError: there is no run at that path.
        """
        if not (path / CONFIG).is_file():
            raise SlsError("no run there", str(path), "`sls-deploy search --out FOLDER` makes one.")
        return cls(path)

    @classmethod
    def newest(cls, root: Path = Path("runs")) -> Run:
        """Take the run below `root` whose settings were written last.

        Raises:
            SlsError: there is none.
        """
        found = sorted(root.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime_ns)
        if not found:
            raise SlsError("no run there yet", str(root), "`sls-deploy search` makes one.")
        return cls(found[-1].parent)

    @property
    def config(self) -> Config:
        """The settings that the run was made with."""
        return read_config(self.path / CONFIG)

    @property
    def manifest(self) -> dict[str, StageRecord]:
        """The finished stages, by key such as 'search/b0.50'."""
        path = self.path / MANIFEST
        if not path.exists():
            return {}
        try:
            stages = json.loads(path.read_text("utf-8"))["stages"]
            return {key: StageRecord(**record) for key, record in stages.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            fix = "Remove the file: finished stages are then done again."
            raise SlsError("is not a manifest of this version", str(path), fix) from None

    def budgets(self, stage: str) -> list[float]:
        """Budgets that `stage` ('search' or 'export') finished, descending."""
        prefix = f"{stage}/b"
        found = {float(key.removeprefix(prefix)) for key in self.manifest if key.startswith(prefix)}
        return sorted(found, reverse=True)

    def folder(self, stage: str, budget: float) -> Path:
        """Folder of a stage and budget, such as `search/b0.50`."""
        return self.path / stage / budget_name(budget)

    def require(self, stage: str, budget: float) -> Path:
        """Folder of a finished stage and budget.

        Raises:
            SlsError: that stage was not done for that budget (lists those that were), or its files
                are no longer those that it wrote, or were made from others than stand there now.
        """
        fix = f"`sls-deploy {stage} --budget {budget:g}` does it."
        before = "searched" if stage == "search" else "exported"
        if budget not in (known := self.budgets(stage)):
            done = ", ".join(f"{value:g}" for value in known) or "none"
            what = f"budget {budget:g} was not {before} (done: {done})"
            raise SlsError(what, str(self.path), fix)
        if not self.is_current(f"{stage}/{budget_name(budget)}"):
            what = f"budget {budget:g} must be {before} again: its files have changed"
            raise SlsError(what, str(self.path), fix)
        return self.folder(stage, budget)

    def is_current(self, key: str) -> bool:
        """Whether a stage is done, and what it read and wrote still stands as it was."""
        record = self.manifest.get(key)
        return record is not None and self._intact({**record.reads, **record.outputs})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder.

        Raises:
            SlsError: another process works in it.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        with disk_errors(self.path):
            try:
                lock.acquire()
            except Timeout:
                fix = "Wait for it, or use another folder."
                raise SlsError("another process works in this run", str(self.path), fix) from None
        try:
            yield
        finally:
            lock.release()

    def stage(
        self,
        key: str,
        inputs: Mapping[str, Any],
        work: Callable[[], Iterable[Path]],
        reads: Iterable[Path] = (),
    ) -> tuple[StageRecord, bool]:
        """Do a stage's work unless the manifest shows that it stands already.

        Args:
            key: name of the stage in the manifest, such as 'export/b0.50'.
            inputs: what the result depends on beside `reads`, as JSON values.
            work: writes the outputs (atomically) and returns their paths.
            reads: files of this run that the result is made from.

        Returns:
            The stage's record, and whether the work was skipped.
        """
        sources = self.hashes(reads)
        if record := self.finished(key, inputs, sources):
            return record, True
        start = time.monotonic()
        outputs = list(work())
        seconds = time.monotonic() - start
        return self.record(key, inputs, sources, outputs, seconds), False

    def hashes(self, files: Iterable[Path]) -> dict[str, str]:
        """SHA-256 of files of this run, by their paths in the run folder."""
        return {path.relative_to(self.path).as_posix(): hash_file(path) for path in files}

    def finished(
        self, key: str, inputs: Mapping[str, Any], sources: Mapping[str, str]
    ) -> StageRecord | None:
        """The record of a stage that stands already; None if there is work to do.

        Args:
            key: name of the stage in the manifest.
            inputs: what the result depends on beside `sources`, as JSON values.
            sources: the files that the result is made from, from `hashes`.
        """
        record = self.manifest.get(key)
        wanted = _inputs_hash(inputs, sources)
        intact = record and record.inputs == wanted and self._intact(record.outputs)
        return record if intact else None

    def record(
        self,
        key: str,
        inputs: Mapping[str, Any],
        sources: Mapping[str, str],
        outputs: Iterable[Path],
        seconds: float,
        peak: int | None = None,
    ) -> StageRecord:
        """Write into the manifest that a stage was done.

        Args:
            key: name of the stage in the manifest.
            inputs: what the result depends on beside `sources`, as JSON values.
            sources: the files that the result was made from, as they were before the work.
            outputs: files of this run that it wrote.
            seconds: wall time of the work.
            peak: peak resident memory in MiB where another process did the work.
        """
        record = StageRecord(
            inputs=_inputs_hash(inputs, sources),
            outputs=self.hashes(sorted(outputs)),
            seconds=round(seconds, 2),
            peak_mib=peak_mib() if peak is None else peak,
            versions=versions(),
            machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            reads=dict(sources),
        )
        stages = {name: asdict(old) for name, old in {**self.manifest, key: record}.items()}
        write_json(self.path / MANIFEST, {"version": 1, "stages": stages})
        return record

    def _intact(self, files: Mapping[str, str]) -> bool:
        root = self.path.resolve()
        return all(
            path.is_relative_to(root) and path.is_file() and hash_file(path) == digest
            for path, digest in (
                ((root / name).resolve(), digest) for name, digest in files.items()
            )
        )


def _inputs_hash(inputs: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    return hash_json({"inputs": inputs, "reads": dict(sources)})


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, but for our own locks and unfinished files."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def budget_name(budget: float) -> str:
    """Folder name of a budget: 'b0.50', 'b0.125'."""
    return f"b{budget:.2f}" if round(budget, 2) == budget else f"b{budget}"


def versions() -> dict[str, str]:
    """Versions of the packages that matter to a result, of those installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
