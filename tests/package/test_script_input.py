"""What the scripts of a package say of files that they cannot use."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sls_deploy.package.stage import package_run
from tests.package.networks import make_run, network
from tests.package.pictures import noise, read_ppm, write_ppm

Call = Callable[..., str]
PLAIN = b"P6\n8 8\n255\n"


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(array: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


BAD = {
    "shorts.npy": npy(np.zeros((8, 8, 3), np.uint16)),
    "integers.npy": npy(np.zeros((8, 8, 3), np.int64)),
    "truths.npy": npy(np.zeros((8, 8, 3), bool)),
    "complex.npy": npy(np.zeros((8, 8, 3), np.complex64)),
    "grey.npy": npy(np.zeros((8, 8), np.uint8)),
    "one.npy": npy(np.zeros((8, 8, 1), np.uint8)),
    "alpha.npy": npy(np.zeros((8, 8, 4), np.float32)),
    "planes.npy": npy(np.zeros((3, 8, 8), np.float32)),
    "batch.npy": npy(np.zeros((1, 8, 8, 3), np.float32)),
    "nothing.npy": npy(np.zeros((0, 8, 3), np.uint8)),
    "objects.npy": npy(np.array([{}]), allow_pickle=True),
    "archive.npy": npz(np.zeros((8, 8, 3), np.uint8)),
    "text.npy": b"no array",
    "empty.npy": b"",
    "cut.npy": npy(noise(8, 8))[:-5],
    "cut.ppm": PLAIN + bytes(191),
    "header.ppm": PLAIN[:-1],
    "empty.ppm": b"",
    "none.ppm": b"P6 0 8 255 ",
    "large.ppm": b"P6 " + b"9" * 30 + b" 8 255 " + bytes(192),
    "endless.ppm": b"P6 " + b"9" * 5000 + b" 8 255 " + bytes(192),
    "deep.ppm": b"P6 8 8 65535 " + bytes(384),
    "letters.ppm": b"P3 1 1 255 0 0 0",
    "comment.ppm": b"P6 8 8 255 # " + bytes(8),
    "picture.png": b"\x89PNG\r\n\x1a\n",
}


@pytest.fixture(params=["run_onnxruntime.py", "run_tensorrt.py"])
def run(request: pytest.FixtureRequest, with_engine: Path, script: Call) -> Call:
    """Either script with files in and out."""
    path = with_engine / request.param
    first = (with_engine / "sm86-fp16.plan",) if "tensorrt" in path.name else ()
    return lambda *files: script(path, *first, *files)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_holds_no_such_picture_is_told_in_a_line(
    run: Call, tmp_path: Path, name: str
) -> None:
    source, out = tmp_path / name, tmp_path / "out.ppm"
    source.write_bytes(BAD[name])
    told = run(source, out)
    assert told.startswith(str(source))
    assert "\n" not in told
    assert not out.exists()


def test_the_line_says_what_the_file_holds(run: Call, tmp_path: Path) -> None:
    source = tmp_path / "in.npy"
    np.save(source, np.zeros((8, 8, 3), np.uint16))
    what = "is uint16 (8, 8, 3), not height x width x 3 bytes or floats"
    assert run(source, tmp_path / "out.ppm") == f"{source} {what}"


def test_a_missing_file_and_a_folder_are_told_in_a_line(run: Call, tmp_path: Path) -> None:
    for source in (tmp_path / "gone.ppm", tmp_path / "gone.npy", tmp_path):
        told = run(source, tmp_path / "out.ppm")
        assert re.fullmatch(rf"{source}: \[Errno \d+\] .*", told)


@pytest.mark.parametrize("name", ["out.png", "out.PPM", "out.jpg", "out"])
def test_an_ending_that_is_not_written_is_refused_before_anything_runs(
    run: Call, tmp_path: Path, name: str
) -> None:
    source = write_ppm(tmp_path / "in.ppm", noise(8, 8))
    told = run(source, tmp_path / name)
    assert told == "give 1 IN, and an OUT that ends in .ppm or .npy"
    assert not (tmp_path / name).exists()


def test_more_pictures_than_the_network_has_frames_are_refused(run: Call, tmp_path: Path) -> None:
    source = write_ppm(tmp_path / "in.ppm", noise(8, 8))
    assert run(source, source, tmp_path / "out.npy").startswith("give 1 IN, ")


def test_fewer_frames_or_frames_of_two_sizes_are_refused(script: Call, tmp_path: Path) -> None:
    models = {0.5: {"model.fp32.onnx": network("fp32", frames=2)}}
    package_run(make_run(tmp_path / "run", models), [0.5], "folder", tmp_path / "out")
    path, out = tmp_path / "out" / "run_onnxruntime.py", tmp_path / "out.npy"
    small = write_ppm(tmp_path / "small.ppm", noise(8, 8))
    large = write_ppm(tmp_path / "large.ppm", noise(9, 8))
    assert script(path, small, out).startswith("give 2 IN, ")
    told = script(path, small, large, out)
    assert told.startswith(f"{large}: ")
    assert "must match" in told
    assert not out.exists()


def test_a_folder_that_is_not_there_is_told_in_a_line(
    with_engine: Path, script: Call, tmp_path: Path
) -> None:
    source = write_ppm(tmp_path / "in.ppm", noise(8, 8))
    for name in ("out.ppm", "out.npy"):
        out = tmp_path / "gone" / name
        told = script(with_engine / "run_onnxruntime.py", source, out)
        assert told.startswith(f"{out}: [Errno 2] ")


@pytest.mark.parametrize(
    "header",
    [
        b"P6 8 8 255 ",
        b"P6\t8\v8\f255\r",
        b"P6# by hand\n8 8\n255\n",
        b"P6\n# 9 9 255\n\n# another\n8 8\n255\n",
        b"P6\n8# wide\n8 # high\r# white follows\n255\n",
        b"P6 8 8 255# the last\n",
        b"P6 08 0008 255\n",
    ],
)
def test_a_comment_may_stand_anywhere_in_a_header(
    with_engine: Path, script: Call, tmp_path: Path, header: bytes
) -> None:
    for image in (noise(8, 8), np.full((8, 8, 3), ord("#"), np.uint8), np.full((8, 8, 3), 10)):
        content = image.astype(np.uint8).tobytes()
        given = []
        for name, start in (("plain", PLAIN), ("other", header)):
            source, out = tmp_path / f"{name}.ppm", tmp_path / f"{name}-out.ppm"
            source.write_bytes(start + content)
            assert script(with_engine / "run_onnxruntime.py", source, out) == ""
            given.append(read_ppm(out))
        np.testing.assert_array_equal(*given)


@pytest.mark.parametrize("name", ["in.ppm", "in.npy"])
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, 150), changed=st.binary(min_size=1, max_size=3))
def test_changed_bytes_end_in_a_picture_or_in_one_line(
    with_engine: Path, script: Call, tmp_path: Path, name: str, place: int, changed: bytes
) -> None:
    whole = PLAIN + bytes(192) if name == "in.ppm" else npy(noise(8, 8))
    source, out = tmp_path / name, tmp_path / "out.ppm"
    source.write_bytes(whole[:place] + changed + whole[place + len(changed) :])
    out.unlink(missing_ok=True)
    told = script(with_engine / "run_onnxruntime.py", source, out)
    assert out.exists() == (told == "")
    assert told == "" or (told.startswith(str(source)) and "\n" not in told)


def test_the_interpreter_itself_shows_one_line_and_no_traceback(
    with_engine: Path, tmp_path: Path
) -> None:
    scripts = {"run_onnxruntime.py": [], "run_tensorrt.py": [with_engine / "sm86-fp16.plan"]}
    for name, first in scripts.items():
        files = [*first, tmp_path / "gone.ppm", tmp_path / "out.ppm"]
        done = subprocess.run(
            [sys.executable, with_engine / name, *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{tmp_path / 'gone.ppm'}: [Errno 2] ")
        assert done.stderr.count("\n") == 1
