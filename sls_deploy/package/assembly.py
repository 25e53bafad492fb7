"""A folder that is whole, with the checksums of its files, or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sls_deploy.errors import SlsError
from sls_deploy.files import disk_errors, hash_file

CHECKSUMS = "SHA256SUMS"
"""File that `sha256sum -c` reads."""


@dataclass(frozen=True)
class PackedFile:
    """A file of a package."""

    name: str
    """Path in the package, with '/'."""
    bytes: int
    """Size."""
    sha256: str
    """SHA-256 of its bytes."""


class Assembly:
    """A package that is being put together.

    Args:
        folder: where it grows; nobody else knows it yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, PackedFile] = {}

    @property
    def files(self) -> tuple[PackedFile, ...]:
        """What is in it by now, by name."""
        return tuple(self._files[name] for name in sorted(self._files))

    def copy(self, source: Path, name: str, sha256: str = "") -> None:
        """Copy a file into it.

        Args:
            source: the file.
            name: path in the package.
            sha256: what it must hash to; empty if that does not matter.

        Raises:
            SlsError: the file cannot be read, or changed since it was hashed.
        """
        target = self._place(name)
        try:
            content = source.open("rb")
        except OSError as error:
            raise SlsError(f"cannot be read ({error.strerror})", str(source)) from None
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)
        self._keep(name)
        if sha256 and self._files[name].sha256 != sha256:
            fix = "Give the command again when nothing else works in the run."
            raise SlsError("changed while it was packed", str(source), fix)

    def write(self, name: str, text: str) -> None:
        """Write a text file into it."""
        self._place(name).write_text(text, "utf-8")
        self._keep(name)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _keep(self, name: str) -> None:
        path = self.folder / name
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        self._files[name] = PackedFile(name, path.stat().st_size, hash_file(path))


@contextmanager
def assembled(out: Path) -> Iterator[Assembly]:
    """Give an empty package; when all went well it gets its checksums and the name `out`.

    It grows in a temporary folder beside `out`, which is gone after an error or an interruption.

    Args:
        out: a folder that does not exist yet, or is empty.

    Raises:
        SlsError: `out` is a file or holds something, it cannot be written, or the disk is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - what a link points to is not replaced
    _check_free(out)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            assembly = Assembly(temporary)
            yield assembly
            lines = [f"{file.sha256}  {file.name}\n" for file in assembly.files]
            assembly.write(CHECKSUMS, "".join(lines))
            temporary.chmod(0o755)
            _check_free(out)
            temporary.replace(out)  # takes the place of an empty folder, too
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_free(out: Path) -> None:
    fix = "Name a new folder, or an empty one."
    with disk_errors(out):
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise SlsError("is there already and is no folder", str(out), fix)
        if out.is_dir() and any(out.iterdir()):
            raise SlsError("is a folder with files in it", str(out), fix)
