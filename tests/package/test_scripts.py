"""The scripts of a package: what they give, and that they need no more than they say."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sls_deploy.package.stage import PackageOptions, package_run
from sls_deploy.run import Run
from tests.package.networks import make_run, network
from tests.package.pictures import expected, noise, read_ppm, to_levels, write_ppm

TEMPLATES = Path(__file__).parents[2] / "sls_deploy" / "package" / "templates"
SCRIPTS = {"run_onnxruntime.py": "onnxruntime", "run_tensorrt.py": "tensorrt"}
NEEDED = ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "google")
"""What `pip install numpy onnxruntime` brings."""
Call = Callable[..., str]


@pytest.fixture(scope="module")
def folder(small: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Budget 0.5 as a folder."""
    out = tmp_path_factory.mktemp("package") / "out"
    package_run(small, [0.5], "folder", out)
    return out


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds numpy and onnxruntime alone."""
    path = tmp_path_factory.mktemp("bare")
    venv.create(path, symlinks=True)
    inside = {"base": str(path), "platbase": str(path)}
    packages = Path(sysconfig.get_path("purelib", "venv", inside))
    installed = Path(sysconfig.get_path("purelib"))
    for name in NEEDED:
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)
    return path / "bin" / "python"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_imports_little(name: str) -> None:
    source = (TEMPLATES / name).read_text()
    assert len(source.splitlines()) <= 60
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    foreign = imported - set(sys.stdlib_module_names)
    assert foreign == ({"numpy", "onnxruntime"} if "onnx" in name else {"numpy"})


def test_both_scripts_read_and_write_alike() -> None:
    one, other = (ast.parse((TEMPLATES / name).read_text()).body for name in SCRIPTS)
    assert [ast.dump(node) for node in one[-3:]] == [ast.dump(node) for node in other[-3:]]
    loops = [next(node for node in body if isinstance(node, ast.For)) for body in (one, other)]
    assert ast.dump(loops[0]) == ast.dump(loops[1])


def test_the_onnx_script_runs_where_nothing_else_is_installed(
    folder: Path, bare: Path, tmp_path: Path
) -> None:
    image = noise(21, 34)
    write_ppm(tmp_path / "in.ppm", image)
    missing = """
import importlib.util, sys
there = ("numpy", "onnxruntime")
gone = ("sls_deploy", "torch", "onnx", "PIL", "scipy", "pyvips", "skimage")
assert all(importlib.util.find_spec(name) for name in there)
assert not any(importlib.util.find_spec(name) for name in gone)
"""
    package = tmp_path / "elsewhere"
    shutil.copytree(folder, package)
    for arguments in (["-c", missing], [package / "run_onnxruntime.py", "in.ppm", "out.ppm"]):
        done = subprocess.run(
            [bare, "-I", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    wanted = to_levels(expected(folder / "model.fp16.onnx", image))
    assert np.abs(read_ppm(tmp_path / "out.ppm") - wanted).max() <= 1


@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (7, 8), (8, 8), (13, 22)])
def test_pictures_of_any_size_come_out_as_by_our_own_runtime(
    folder: Path, script: Call, tmp_path: Path, sides: tuple[int, int]
) -> None:
    image = noise(*sides)
    run, out = folder / "run_onnxruntime.py", tmp_path / "out.npy"
    wanted = expected(folder / "model.fp16.onnx", image)
    ppm = write_ppm(tmp_path / "in.ppm", image, "# by hand\n")
    np.save(tmp_path / "bytes.npy", image)
    np.save(tmp_path / "floats.npy", image / 255)
    for source in (ppm, tmp_path / "bytes.npy", tmp_path / "floats.npy"):
        assert script(run, source, out) == ""
        np.testing.assert_allclose(np.load(out), wanted, atol=2e-3)


def test_bytes_go_through_a_network_from_bytes_to_bytes(
    small: Run, script: Call, tmp_path: Path
) -> None:
    package_run(small, [0.5], "folder", tmp_path / "out", PackageOptions(io="uint8"))
    image = noise(13, 22)
    write_ppm(tmp_path / "in.ppm", image)
    arguments = (tmp_path / "in.ppm", tmp_path / "out.ppm")
    assert script(tmp_path / "out" / "run_onnxruntime.py", *arguments) == ""
    wanted = to_levels(expected(tmp_path / "out" / "model.fp16.uint8.onnx", image))
    np.testing.assert_array_equal(read_ppm(tmp_path / "out.ppm"), wanted)


def test_frames_are_given_one_after_the_other(script: Call, tmp_path: Path) -> None:
    models = {0.5: {"model.fp32.onnx": network("fp32", frames=2)}}
    package_run(make_run(tmp_path / "run", models), [0.5], "folder", tmp_path / "out")
    first, second = noise(9, 12), noise(9, 12)[::-1]
    sources = [
        write_ppm(tmp_path / f"{index}.ppm", np.ascontiguousarray(image))
        for index, image in enumerate((first, second))
    ]
    run = tmp_path / "out" / "run_onnxruntime.py"
    assert script(run, *sources, tmp_path / "out.npy") == ""
    wanted = expected(tmp_path / "out" / "model.fp32.onnx", np.concatenate([first, second], 2))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=1e-5)


def test_a_graph_of_one_size_gets_that_size_and_no_larger_picture(
    script: Call, tmp_path: Path
) -> None:
    models = {0.5: {"model.fp32.onnx": network("fp32", shape=(2, 10, 14))}}
    package_run(make_run(tmp_path / "run", models), [0.5], "folder", tmp_path / "out")
    run, out = tmp_path / "out" / "run_onnxruntime.py", tmp_path / "out.npy"
    assert script(run, write_ppm(tmp_path / "in.ppm", noise(9, 14)), out) == ""
    assert np.load(out).shape == (18, 28, 3)
    large = write_ppm(tmp_path / "large.ppm", noise(11, 14))
    assert script(run, large, out) == (
        "the network takes at most [10, 14] pixels: cut the picture into tiles"
    )


def test_bad_input_ends_the_script_with_a_reason(
    folder: Path, script: Call, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    shutil.copytree(folder, package)
    run, out = package / "run_onnxruntime.py", tmp_path / "out.ppm"
    (tmp_path / "in.jpg").write_bytes(b"\xff\xd8\xff")
    assert script(run, tmp_path / "in.jpg", out).endswith("in.jpg is no 8-bit binary .ppm")
    assert script(run).startswith("Restores a picture")
    with (package / "model.fp16.onnx").open("ab") as file:
        file.write(b"\0")
    source = write_ppm(tmp_path / "in.ppm", noise(8, 8))
    assert script(run, source, out) == (
        "model.fp16.onnx is not the file that package.json describes"
    )
    assert not out.exists()


def test_on_a_gpu_fp32_is_fp32_and_no_other_provider_is_tried(
    folder: Path, script: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def session(content: bytes, options: Any, providers: list[Any]) -> None:
        asked.append(providers)
        raise RuntimeError("of two\nlines")

    source, out = write_ppm(tmp_path / "in.ppm", noise(8, 8)), tmp_path / "out.npy"
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for available in (there, there[2:]):
        monkeypatch.setattr(onnxruntime, "get_available_providers", available.copy)
        told = script(folder / "run_onnxruntime.py", source, out)
        assert told == "model.fp16.onnx: of two lines"
    exact = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert asked == [
        [("CUDAExecutionProvider", exact), "CPUExecutionProvider"],
        ["CPUExecutionProvider"],
    ]
