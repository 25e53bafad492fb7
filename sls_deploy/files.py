"""Files that are whole or not there, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sls_deploy.errors import SlsError

_START = 20
"""Bytes of a file's name that its temporary one begins with."""


def cache_folder() -> Path:
    """Where what can be made again is kept between runs.

    SLS_DEPLOY_CACHE names it; else it is sls-deploy below XDG_CACHE_HOME, or below ~/.cache.
    """
    if own := os.environ.get("SLS_DEPLOY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sls-deploy"


def slug(name: str) -> str:
    """A name as part of a file's name: 'nvidia-a10' for 'NVIDIA A10'."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one clear error about `path`."""
    try:
        yield
    except OSError as error:
        fix = "Free some space or name another folder; finished work is kept."
        raise SlsError(f"cannot be written ({error.strerror or error})", str(path), fix) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is flushed and takes the name.

    Who may read it is what the process's umask has for new files.

    Raises:
        SlsError: the disk is full or the folder cannot be written; `path` is left as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / _temporary_name(path.name)
        # Not by tempfile, which leaves out the rights that the umask gives to others.
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        rights = os.fstat(handle).st_mode & 0o777
        os.close(handle)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # safetensors puts a file of its own in the place, which others may not read.
            temporary.chmod(rights)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    """A hidden name that nobody else has, with a start of `name` to know it by.

    It is short whatever the length of `name`, because file systems end at 255 bytes.
    """
    start = name.encode(errors="surrogateescape")[:_START].decode(errors="ignore")
    return f".{start}.{secrets.token_hex(8)}"


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically and return its path."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically and return its path."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        SlsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path)) from None


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
