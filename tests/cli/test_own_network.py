"""A network of the user's own through every command, with nothing of it known beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sls_deploy.run import Run
from tests.conftest import few_passes

Program = Callable[..., Any]

NETWORK = """
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.entry = weight_norm(nn.Conv2d(3, width, 3, padding=1))
        self.down = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.PReLU())
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.exit = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x):
        out = self.entry(x)
        return [x, x + 0.1 * self.exit(torch.cat([out, self.up(self.down(out))], 1))][::-1]


class Undecided(Net):
    def forward(self, x):
        return super().forward(x)[0 if x.mean() > -1 else 1]


def make(width=4):
    return Net(width)


def undecided(width=4):
    return Undecided(width)
"""  # noqa: E501
SETTINGS = """
[model]
name = "net.py:make"
weights = "net.pth"
options = { width = 8 }
output = 0

[data]
photos = "photos"
held_out = 2
blur_length = 6.0

[search]
method = "reconstruct"
pattern = "n:4"
budgets = [0.6]
patch = 16
batch = 2
crops = 16

[build]
min_shape = [1, 3, 16, 16]
opt_shape = [1, 3, 32, 32]
max_shape = [1, 3, 64, 64]

[validate]
pictures = "pictures"
max_loss_db = 60.0
max_picture_loss_db = 60.0
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, photos: Path, pictures: Path) -> Path:
    """A folder with a network, its weights as a training left them, photographs and settings."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NETWORK)
    (folder / "sls-deploy.toml").write_text(SETTINGS)
    (folder / "photos").symlink_to(photos)
    (folder / "pictures").symlink_to(pictures)
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(NETWORK, "net.py", "exec"), space)  # noqa: S102 - the test's own text
    torch.manual_seed(0)
    state = space["make"](8).state_dict()
    nested = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(nested, folder / "net.pth")
    return folder


@pytest.fixture(scope="module")
def told(program: Program, project: Path) -> Any:
    """What the whole run says."""
    with pytest.MonkeyPatch.context() as patch:
        few_passes(patch)
        outcome = program("run", "--out", "runs/own", cwd=project)
    assert outcome.code == 0, outcome.err
    return outcome


def test_whole_run_leaves_every_file(told: Any, project: Path) -> None:
    run = project / "runs/own"
    for name in (
        "search/b0.60/weights.safetensors",
        "export/b0.60/model.fp16.onnx",
        "engines/b0.60/sm86-fp16.plan",
        "validation/report.json",
    ):
        assert (run / name).is_file()
    assert "RGB-PSNR" in told.out


def test_transposed_convolution_is_pruned_and_named_as_not_eligible(
    told: Any, project: Path
) -> None:
    run = project / "runs/own"
    rows = json.loads((run / "search/b0.60/ratios.json").read_text())["layers"]
    kinds = {row["name"]: row["kind"] for row in rows if row["prunable"]}
    assert kinds == {"down.0": "Conv2d", "up": "ConvTranspose2d"}
    layers = json.loads((run / "export/b0.60/proof.json").read_text())["files"]["fp32"]["layers"]
    up = next(layer for layer in layers if layer["name"] == "up")
    assert "transposed" in up["reason"]


def test_same_command_again_does_nothing(told: Any, program: Program, project: Path) -> None:
    outcome = program("run", "--out", "runs/own", "--json", cwd=project)
    done = json.loads(outcome.out)
    assert all(item["skipped"] for item in done["search"]["budgets"] + done["export"])


def test_changed_code_is_no_longer_exported_or_validated(
    told: Any, program: Program, project: Path
) -> None:
    (project / "net.py").write_text(NETWORK.replace("0.1 * self", "0.2 * self"))
    for command in ("export", "validate"):
        outcome = program(command, "runs/own", cwd=project)
        assert outcome.code == 2
        assert re.search(r"net\.py:make: is not the code that was searched", outcome.err)
    (project / "net.py").write_text(NETWORK)


def test_changed_code_is_searched_again(told: Any, program: Program, project: Path) -> None:
    key, before = "search/b0.60", Run(project / "runs/own").manifest["search/b0.60"].inputs
    (project / "net.py").write_text(NETWORK + "\n# changed\n")
    assert program("search", "--out", "runs/own", cwd=project).code == 0
    assert Run(project / "runs/own").manifest[key].inputs != before
    (project / "net.py").write_text(NETWORK)


def test_layers_are_kept_and_pruned_as_asked(program: Program, project: Path) -> None:
    flags = ("--keep", "up", "--prune", "exit", "--json")
    layers = json.loads(program("inspect", *flags, cwd=project).out)["layers"]
    reasons = {layer["name"]: layer["reason"] for layer in layers}
    assert reasons["up"] == "kept dense by --keep up"
    assert reasons["exit"] == ""


def test_inspect_prints_each_layer_with_its_reasons(program: Program, project: Path) -> None:
    out = program("inspect", "--size", "30x50", cwd=project).out
    assert re.search(r"net\.py:make x1: [\d,]+ parameters, .* GMACs at 30x50", out)
    assert re.search(r"entry +Conv2d +8x3x3x3 .*first convolution stays dense", out)
    assert re.search(r"up +ConvTranspose2d .* it is a transposed convolution", out)
    assert "sides: multiples of 2, 2 or more" in out
    assert "of its outputs, 0 is the picture" in out


def test_network_that_cannot_be_traced_is_searched_by_hooks(
    program: Program, project: Path
) -> None:
    flags = ("--model", "net.py:undecided", "--method", "auto", "--steps", 2)
    settings = project / "undecided.toml"
    settings.write_text(SETTINGS.replace("output = 0\n", ""))
    outcome = program("search", "--config", settings, *flags, "--out", "runs/u", cwd=project)
    assert outcome.code == 0, outcome.err
    assert re.search(r"undecided cannot be traced .*reconstruction, narrowing", outcome.out)
    assert program("export", "runs/u", cwd=project).code == 2


REFUSED = {
    "wrong path": (("--model", "nit.py:make"), "nit.py: no such file"),
    "no factory": (("--model", "net.py:mak"), r"has no factory mak \(there: Net, Undecided, make"),
    "factory that raises": (
        ("--config", "raises.toml"),
        r"net\.py: make\(depth=8\) raised TypeError",
    ),
    "other weights": (("--config", "wide.toml"), r"of another shape \(.*needed"),
    "odd patch": (("--patch", "17"), "--patch: 17 is no multiple of 2.*Give 18"),
    "no such layer": (("--keep", "body*"), r"--keep: no layer matches 'body\*'.*entry"),
    "even frames": (("--frames", "2"), "model.frames is 2: must be odd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_in_one_line(case: str, program: Program, project: Path) -> None:
    flags, expected = REFUSED[case]
    (project / "raises.toml").write_text(SETTINGS.replace("width = 8", "depth = 8"))
    (project / "wide.toml").write_text(SETTINGS.replace("width = 8", "width = 16"))
    outcome = program("search", *flags, "--out", f"runs/{case}", cwd=project)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert re.search(expected, outcome.err), outcome.err
    assert not (project / f"runs/{case}").exists()
