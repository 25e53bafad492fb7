"""The README's commands run, with short searches in place of long ones."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

from sls_deploy.cli.main import main
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.models.registry import Description
from sls_deploy.models.unet import UNet
from tests.conftest import few_passes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FEW = ("--set", "features=16", "--set", "shrunk=8", "--set", "mapping=2")
"""The network of the example, in small."""


def commands(path: Path) -> list[str]:
    """The program's calls in the shell blocks of a text."""
    blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text("utf-8"), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("sls-deploy ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the README's commands name."""
    root = tmp_path_factory.mktemp("readme")
    photos = sample_photos()
    for name in ("astronaut", "coffee"):
        write_image(root / "photos" / f"{name}.png", photos[name][:192, 128:384])
    for name in ("Set5", "test", "pictures"):
        write_image(root / name / "chelsea.png", photos["chelsea"][64:160, 128:256])
    torch.manual_seed(0)
    options = {"features": 16, "blocks": 1, "scale": 2, "input_range": 1.0}
    save_weights(root / "dense.safetensors", build_model(Description("edsr", options, 2, 1.0)))
    (root / "net.py").write_text(
        "from sls_deploy.models.unet import UNet\n\n\n"
        "def make():\n"
        "    return UNet(features=8, halvings=1)\n"
    )
    network = UNet(features=8, halvings=1).eval()
    torch.save({"state_dict": network.state_dict()}, root / "net.pth")
    with warnings.catch_warnings(action="ignore"):  # PyTorch's own, of its next version
        torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), root / "a.onnx", verbose=False)
    return root


def run_all(found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands one after the other; what takes long is cut short."""
    few_passes(monkeypatch)
    for command in found:
        short = "--steps 4 --patch 16 --batch 2 --crops 8"
        words = shlex.split(re.sub(r"--minutes \S+", short, command))
        if words[1] == "run" and "--crops" not in words:
            words += ["--crops", "8"]
        if words[1] in ("run", "validate"):
            words += ["--max-loss-db", "99", "--max-picture-loss-db", "99"]
        if words[1] == "bench":
            words += ["--shape", "1x3x32x32"]
        if words[1] == "train":
            words += ["--steps", "2", "--batch", "1", "--patch", "16", *FEW]
        if words[1] == "adapt":
            words += ["--steps", "20", "--tiles", "64", "--calibration-tiles", "16"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (0, None), command


def test_readme_shows_the_commands_of_the_flow() -> None:
    shown = {shlex.split(command)[1] for command in commands(README)}
    flow = {"run", "init", "search", "export", "build", "validate", "adapt", "restore", "package"}
    assert flow <= shown


def test_readme_holds_no_placeholder() -> None:
    assert re.findall(r"\b[A-Z]+_RESULTS?\b|\bTODO\b|\bTBD\b", README.read_text("utf-8")) == []


def test_readme_commands_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run_all(commands(README), monkeypatch)


def test_commands_of_the_example_run_in_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = tmp_path / "own_network"
    shutil.copytree(ROOT / "examples" / "own_network", example)
    settings = example / "sls-deploy.toml"
    for few in FEW[1::2]:
        name, value = few.split("=")
        text, found = re.subn(rf"\b{name} = \d+", f"{name} = {value}", settings.read_text())
        assert found == 1
        settings.write_text(text)
    for name in ("photos", "pictures"):
        (example / name).symlink_to(folder / name)
    monkeypatch.chdir(example)
    run_all(commands(example / "README.md"), monkeypatch)


def test_a_network_of_ones_own_is_inspected_as_documented(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = [line for line in commands(ROOT / "docs" / "models.md") if " inspect " in line]
    assert found
    run_all(found, monkeypatch)
