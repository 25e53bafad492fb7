"""Small strongly typed networks and one run with engines of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.config import BuildConfig, Config
from sls_deploy.config_file import to_toml
from sls_deploy.engine.request import BuildRequest
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.files import hash_file
from sls_deploy.run import Run, budget_name

SHAPES = {
    "min_shape": (1, 3, 16, 16),
    "opt_shape": (1, 3, 32, 32),
    "max_shape": (2, 3, 64, 64),
}
LAYERS = ((3, 16, 1), (16, 24, 1), (24, 25, 1), (25, 32, 1), (32, 32, 4), (32, 12, 1))
"""(C_in, C_out, groups) of 3x3 convolutions: odd, grouped and 2:4 ones."""


def prune_2_4(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero the two smallest of every four consecutive input channels."""
    quads = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
    order = np.argsort(np.abs(quads), axis=2)
    mask = np.ones_like(quads)
    np.put_along_axis(mask, order[:, :, :2], 0, axis=2)
    return np.reshape(quads * mask, weight.shape)


def make_network(
    path: Path,
    precision: str = "fp16",
    layers: Sequence[tuple[int, int, int]] = LAYERS,
    seed: int = 0,
) -> onnx.ModelProto:
    """Write convolutions with ReLU between them; those whose channels allow it are 2:4."""
    rng = np.random.default_rng(seed)
    half = precision == "fp16"
    nodes, weights, last = [], [], "input"
    if half:
        nodes.append(helper.make_node("Cast", [last], ["half"], to=TensorProto.FLOAT16))
        last = "half"
    for number, (c_in, c_out, groups) in enumerate(layers):
        weight = rng.standard_normal((c_out, c_in // groups, 3, 3), dtype=np.float32)
        if weight.shape[1] % 4 == 0:
            weight = prune_2_4(weight)
        name = f"network.{number}.weight"
        typed = weight.astype(np.float16 if half else np.float32)
        weights.append(numpy_helper.from_array(typed, name))
        nodes.append(
            helper.make_node(
                "Conv", [last, name], [f"c{number}"], f"conv{number}", group=groups, pads=[1] * 4
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        last = f"r{number}"
    to_float = helper.make_node("Cast", [last], ["output"], "output_cast", to=TensorProto.FLOAT)
    picture = helper.make_tensor_value_info(
        "input", TensorProto.FLOAT, ["n", layers[0][0], "h", "w"]
    )
    result = helper.make_tensor_value_info(
        "output", TensorProto.FLOAT, ["n", layers[-1][1], "h", "w"]
    )
    graph = helper.make_graph([*nodes, to_float], "network", [picture], [result], weights)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, path)
    return model


def make_run(folder: Path) -> Run:
    """A run whose budget 0.5 is exported in both precisions."""
    run = Run.create(folder)
    (folder / "config.toml").write_text(to_toml(Config()))
    exported = run.folder("export", 0.5)
    exported.mkdir(parents=True)
    for precision in ("fp32", "fp16"):
        make_network(exported / f"model.{precision}.onnx", precision)
    record_export(run)
    return run


def record_export(run: Run, budget: float = 0.5) -> None:
    """Record the graphs that lie in the run as those that an export wrote."""
    graphs = sorted(run.folder("export", budget).iterdir())
    with run.locked():
        key = f"export/{budget_name(budget)}"
        run.stage(key, {path.name: hash_file(path) for path in graphs}, lambda: graphs)


def request_for(onnx_path: Path, plan: Path) -> BuildRequest:
    """A request to build an SM86 engine."""
    return BuildRequest(
        backend="tensorrt_rtx",
        architectures=("sm86",),
        onnx=str(onnx_path),
        plan=str(plan),
        input_name="input",
        **SHAPES,
    )


def build_options(**values: object) -> BuildConfig:
    """Settings of a small build."""
    return BuildConfig.model_validate({"backend": "tensorrt_rtx", **SHAPES, **values})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of engines that no other test fills."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SLS_DEPLOY_CACHE", str(folder))
    return folder


@pytest.fixture(name="make_network")
def network_maker() -> Callable[..., onnx.ModelProto]:
    return make_network


@pytest.fixture(name="build_options")
def options_maker() -> Callable[..., BuildConfig]:
    return build_options


@pytest.fixture(name="record_export")
def export_recorder() -> Callable[..., None]:
    return record_export


@pytest.fixture
def request_small(tmp_path: Path) -> BuildRequest:
    """A request to build a small network; its plan is not there yet."""
    path = tmp_path / "model.onnx"
    make_network(path)
    return request_for(path, tmp_path / "engine.plan")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, EngineResult]]:
    """A run with SM86 engines, by precision."""
    made = make_run(tmp_path_factory.mktemp("built") / "run")
    results = build_engines(made, [0.5], build_options(precisions=("fp32", "fp16")))
    return made, {result.manifest.precision: result for result in results}
