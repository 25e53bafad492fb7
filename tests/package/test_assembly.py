from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from sls_deploy.errors import SlsError
from sls_deploy.package.assembly import assembled


def fill(out: Path, size: int = 10, error: BaseException | None = None) -> None:
    with assembled(out) as assembly:
        assembly.write("notes/a b.txt", "x" * size)
        if error:
            raise error
        assembly.write("b.txt", "")


def test_checksums_hold_by_the_usual_program(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    fill(out)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],  # noqa: S607
        cwd=out,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "b.txt: OK\nnotes/a b.txt: OK\n"
    assert (out.stat().st_mode & 0o777) == 0o755
    assert list(out.parent.iterdir()) == [out]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out)
    assert (out / "b.txt").is_file()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_already_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / ".hidden").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        (tmp_path / "empty").mkdir()
        out.symlink_to(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SlsError, match=r"out: is .* Name a new folder"):
        fill(out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [SlsError("bad"), KeyboardInterrupt()])
def test_nothing_stays_after_an_error_or_an_interruption(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        fill(tmp_path / "out", error=error)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SlsError, match="out: cannot be written"):
            fill(tmp_path / "out", 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_longer_what_was_hashed_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("new")
    with pytest.raises(SlsError, match="changed while"), assembled(tmp_path / "out") as assembly:
        assembly.copy(source, "a", "0" * 64)
    with pytest.raises(SlsError, match="cannot be read"), assembled(tmp_path / "out") as assembly:
        assembly.copy(tmp_path / "none", "a")
    assert list(tmp_path.iterdir()) == [source]
