from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sls_deploy.data.images import read_image, write_image
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.validate.metrics import to_uint8

Program = Callable[..., Any]


@pytest.fixture
def inputs(tmp_path: Path, pictures: Path) -> Path:
    """A folder with a picture in it, and one in a folder below."""
    folder = tmp_path / "inputs"
    (folder / "below").mkdir(parents=True)
    for source, name in (("eye.png", "eye.png"), ("fur.png", "below/fur.png")):
        (folder / name).write_bytes((pictures / source).read_bytes())
    return folder


def test_a_folder_is_restored_with_its_structure_by_the_newest_run(
    program: Program, project: Any, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = program("restore", inputs, "--out", out, "--budget", 0.5, cwd=project.folder)
    assert (outcome.code, outcome.err.count("error")) == (0, 0), outcome.err
    assert outcome.out.startswith("by ONNX Runtime fp32 on the CPU (TensorRT sm86-fp16: needs an")
    runner = OnnxRunner(project.run / "export" / "b0.50" / "model.fp32.onnx")
    for name in ("eye.png", "below/fur.png"):
        given = np.ascontiguousarray(read_image(inputs / name).transpose(2, 0, 1), np.float32)[None]
        expected = to_uint8(runner.run(given / np.float32(255))[0]).transpose(1, 2, 0)
        np.testing.assert_array_equal(read_image(out / name), expected)


def test_small_tiles_give_what_the_whole_picture_gives(
    program: Program, project: Any, inputs: Path, tmp_path: Path
) -> None:
    for name, flags in (("whole", ()), ("tiles", ("--tile", 48))):
        call = ("restore", project.run, inputs, "--out", tmp_path / name, *flags, "--json")
        outcome = program(*call, cwd=tmp_path)
        assert outcome.code == 0, outcome.err
    assert min(one["tiles"] for one in json.loads(outcome.out)["restored"]) > 1
    for name in ("eye.png", "below/fur.png"):
        found = (read_image(tmp_path / kind / name) for kind in ("whole", "tiles"))
        difference = np.abs(np.subtract(*map(np.int16, found)))
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


def test_what_is_there_already_is_left_alone(
    program: Program, project: Any, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mine = write_image(out / "eye.png", np.zeros((4, 4, 3), np.uint8)).read_bytes()
    call = ("restore", project.run, inputs, "--out", out)
    outcome = program(*call, cwd=tmp_path)
    assert "1 was there already (--overwrite writes anew)" in outcome.out
    assert (out / "eye.png").read_bytes() == mine
    program(*call, "--overwrite", cwd=tmp_path)
    assert (out / "eye.png").read_bytes() != mine


def test_a_bad_file_is_told_and_the_others_are_done(
    program: Program, project: Any, inputs: Path, tmp_path: Path
) -> None:
    (inputs / "bad.png").write_text("no picture")
    outcome = program("restore", project.run, inputs, "--out", tmp_path / "out", cwd=tmp_path)
    assert outcome.code == 2
    assert "FAILED" in outcome.out
    assert "bad.png" in outcome.err.splitlines()[-1]
    assert (tmp_path / "out" / "below" / "fur.png").is_file()


def test_paths_come_from_standard_input(
    program: Program, project: Any, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{inputs / 'eye.png'}\n\n"))
    outcome = program("restore", project.run, "-", "--out", tmp_path / "out", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["eye.png"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("nothing.png",), "nothing.png: no such file"),
        ((".", "--adaptive"), "--adaptive: needs one target"),
        ((".", "--target-cost", "0.3"), "--target-cost: needs --adaptive"),
        ((".", "--adaptive", "--target-cost", "0.3"), "was not adapted yet"),
        ((".", "--adaptive", "--target-cost", "0.3", "--budget", "0.5"), "--budget"),
        ((".", "--choice-map", "maps"), "--choice-map: needs --adaptive"),
        ((".", "--budget", "0.1"), "budget 0.1 was not exported"),
        ((".", "--backend", "tensorrt"), "needs an NVIDIA GPU"),
        ((".", "--precision", "int8"), "nothing int8 of budget"),
        ((".", "--tile", "3"), "restore.tile"),
        ((".", "--format", "gif"), "restore.format"),
        ((), "nothing to restore was named"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    flags: tuple[str, ...], told: str, program: Program, project: Any, inputs: Path, tmp_path: Path
) -> None:
    outcome = program("restore", project.run, *flags, "--out", tmp_path / "out", cwd=inputs)
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
