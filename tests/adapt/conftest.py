"""A run of two real networks, the best linear ones of their size, and what was adapted to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.adapt.stage import AdaptResult, adapt_run
from sls_deploy.config import AdaptConfig, Config
from sls_deploy.config_file import to_toml
from sls_deploy.data.bicubic import downscale
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.models.architecture import Description
from sls_deploy.run import Run, budget_name

SCALE = 2
TAPS = {0.25: 3, 0.5: 7}
"""Side of the one convolution of each budget."""
COSTS = {0.25: 0.2, 0.5: 0.5}
OPTIONS = AdaptConfig(tile=16, tiles=400, calibration_tiles=100, steps=120, skip=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of 128x128, flat parts and fine ones among them."""
    folder = tmp_path_factory.mktemp("photos")
    samples = sample_photos()
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        for number, place in enumerate((40, 170)):
            part = samples[name][place : place + 128, place : place + 128]
            write_image(folder / f"{name}{number}.png", part)
    return folder


def linear_network(budget: float, *, scale: int = SCALE) -> onnx.ModelProto:
    """A convolution and a shuffle of pixels that enlarge a photograph with the least error."""
    taps, sharp = TAPS[budget], sample_photos()["astronaut"][:256, :256]
    given = downscale(sharp, scale)
    filters = _fitted(given.astype(np.float64) / 255, sharp.astype(np.float64) / 255, taps)
    weight = np.zeros((3, scale**2, 3, taps, taps), np.float32)
    for colour in range(3):
        weight[colour, :, colour] = filters
    weight = weight.reshape(-1, 3, taps, taps)
    half = taps // 2
    nodes = [
        helper.make_node("Pad", ["input", "pads"], ["wide"], mode="edge"),
        helper.make_node("Conv", ["wide", "weight"], ["phases"]),
        helper.make_node("DepthToSpace", ["phases"], ["output"], blocksize=scale, mode="CRD"),
    ]
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3, "H", "W"])
    pads = np.array([0, 0, half, half] * 2, np.int64)
    weights = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(pads, "pads")]
    graph = helper.make_graph(nodes, "network", [picture], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    said = {
        "model": Description("edsr", {}, scale, 1.0).to_json(),
        "scale": str(scale),
        "sides": '{"least": 1, "multiple": 1}',
        "budget": f"{budget:g}",
        "network_cost": f"{COSTS[budget]:g}",
        "precision": "fp32",
    }
    for key, value in said.items():
        model.metadata_props.add(key=f"sls_deploy.{key}", value=value)
    return model


def make_run(path: Path) -> Run:
    """A run in which both networks were exported."""
    run = Run.create(path)
    (path / "config.toml").write_text(to_toml(Config()))
    for budget in TAPS:
        searched, exported = (run.folder(stage, budget) for stage in ("search", "export"))
        for folder in (searched, exported):
            folder.mkdir(parents=True)
        ratios = {"budget": budget, "pattern": "2:4", "cost": budget, "network_cost": budget}
        ratios |= {"layers": [], "macs_per_pixel": 50_000.0}
        (searched / "ratios.json").write_text(json.dumps(ratios))
        file = exported / "model.fp32.onnx"
        onnx.save(linear_network(budget), file)
        run.stage(f"export/{budget_name(budget)}", {}, lambda file=file: [file])
    return run


@pytest.fixture(scope="session")
def adapted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, AdaptResult]:
    """The run, adapted."""
    run = make_run(tmp_path_factory.mktemp("runs") / "linear")
    return run, adapt_run(run, OPTIONS, photos)


def _fitted(
    given: NDArray[np.float64], sharp: NDArray[np.float64], taps: int
) -> NDArray[np.float64]:
    """Least-squares filters of all phases, from one colour at a time: phases x taps x taps."""
    half = taps // 2
    scale = len(sharp) // len(given)
    padded = np.pad(given, ((half, half), (half, half), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), (0, 1))
    rows = windows.reshape(-1, taps * taps)
    height, width = given.shape[:2]
    phases = sharp.reshape(height, scale, width, scale, 3).transpose(0, 2, 4, 1, 3)
    found, *_ = np.linalg.lstsq(rows, phases.reshape(-1, scale**2), rcond=None)
    return found.T.reshape(scale**2, taps, taps)
