"""Small exported networks, and a run that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.config import BuildConfig, Config
from sls_deploy.config_file import to_toml
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.metadata import Metadata
from sls_deploy.export.passes.uint8_io import Uint8Pictures
from sls_deploy.models.architecture import Description
from sls_deploy.onnx_file import facts
from sls_deploy.run import Run, budget_name

SCALE, LEAST, MULTIPLE = 2, 8, 4
SIZES = {"min_shape": (1, 3, 8, 8), "opt_shape": (2, 3, 16, 24), "max_shape": (4, 3, 64, 64)}
BUILD = BuildConfig.model_validate({"backend": "tensorrt_rtx", "precisions": ["fp16"], **SIZES})


def network(
    precision: str, *, frames: int = 1, shape: Sequence[Any] = ("n", "h", "w"), seed: int = 0
) -> onnx.ModelProto:
    """A 3x3 convolution and a shuffle of pixels, as the export describes them."""
    batch, height, width = shape
    rng = np.random.default_rng(seed)
    kind = np.float16 if precision == "fp16" else np.float32
    weight = rng.normal(0, 0.2, (3 * SCALE**2, 3 * frames, 3, 3)).astype(kind)
    last = "input"
    nodes = []
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [last], ["half"], to=TensorProto.FLOAT16))
        last = "half"
    nodes.append(helper.make_node("Conv", [last, "weight"], ["wide"], "conv", pads=[1] * 4))
    nodes.append(
        helper.make_node("DepthToSpace", ["wide"], ["fine"], "d", blocksize=SCALE, mode="CRD")
    )
    nodes.append(helper.make_node("Cast", ["fine"], ["output"], to=TensorProto.FLOAT))
    sides = (height, width)
    fine = [SCALE * side if isinstance(side, int) else f"fine_{side}" for side in sides]
    picture = helper.make_tensor_value_info(
        "input", TensorProto.FLOAT, [batch, 3 * frames, height, width]
    )
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 3, *fine])
    weights = [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "network", [picture], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fixed = all(isinstance(side, int) for side in sides)
    about = Description(
        "edsr", {}, SCALE, 1.0, least_side=LEAST, multiple=MULTIPLE, frames=frames
    ).to_json()
    exact = f"[1, {3 * frames}, {height}, {width}]"
    said = {
        "model": about,
        "scale": str(SCALE),
        "sides": exact if fixed else f'{{"least": {LEAST}, "multiple": {MULTIPLE}}}',
        "budget": "0.5",
        "network_cost": "0.6",
        "precision": precision,
    }
    for key, value in said.items():
        model.metadata_props.add(key=f"sls_deploy.{key}", value=value)
    return model


def in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network from bytes to bytes."""
    said = {**facts(model), "io": "uint8"}
    passes = (("uint8", Uint8Pictures()), ("metadata", Metadata(said)))
    made, _ = run_passes(ir.serde.deserialize_model(model), passes)
    return ir.serde.serialize_model(made)


def make_run(path: Path, models: dict[float, dict[str, onnx.ModelProto]]) -> Run:
    """A run in which networks were exported.

    Args:
        path: its folder.
        models: by budget and file name.
    """
    run = Run.create(path)
    (path / "config.toml").write_text(to_toml(Config(build=BUILD)))
    for budget, files in models.items():
        folder = run.folder("export", budget)
        folder.mkdir(parents=True)
        for name, model in files.items():
            onnx.save(model, folder / name)
        written = [folder / name for name in files]
        run.stage(f"export/{budget_name(budget)}", {}, lambda written=written: written)
    return run
