from __future__ import annotations

import ast
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.config import BuildConfig, Config, to_toml
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.evidence import Evidence, SparsityLog
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import EngineManifest, write_manifest
from sls_deploy.engine.request import Tensor
from sls_deploy.engine.stage import build_engines
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from sls_deploy.runtime import tensorrt
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.tensorrt import EngineRunner, check_size

CONTENT = b"the bytes of an engine"
MANIFEST = EngineManifest(
    plan="sm86-fp16.plan",
    plan_sha256=hashlib.sha256(CONTENT).hexdigest(),
    plan_bytes=len(CONTENT),
    onnx="model.fp16.onnx",
    onnx_sha256="0" * 64,
    backend="tensorrt_rtx",
    backend_version="1.0",
    sls_deploy_version="0.1",
    architecture="sm86",
    precision="fp16",
    budget=0.5,
    min_shape=(1, 3, 16, 16),
    opt_shape=(1, 3, 32, 32),
    max_shape=(2, 3, 64, 64),
    inputs=(Tensor("input", "FLOAT", (-1, 3, -1, -1)),),
    outputs=(Tensor("output", "FLOAT", (-1, 3, -1, -1)),),
    sparse_weights=True,
    strongly_typed=True,
    seconds=1.0,
    peak_mib=100,
    warnings=(),
    evidence=Evidence("none", "", SparsityLog(), ()),
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / MANIFEST.plan
    path.write_bytes(CONTENT)
    write_manifest(path.with_suffix(".json"), MANIFEST)
    return path


def test_an_engine_with_another_hash_is_not_loaded(plan: Path) -> None:
    plan.write_bytes(CONTENT + b"!")
    with pytest.raises(SlsError, match="so it is not loaded"):
        EngineRunner(plan)


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_without_a_gpu_the_one_that_is_needed_is_named(plan: Path) -> None:
    with pytest.raises(SlsError, match=r"GPU of compute capability 8\.6, and there is none here"):
        EngineRunner(plan)


def test_another_gpu_than_the_engines_is_refused(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm89")
    with pytest.raises(SlsError, match=r"capability 8\.6, and there is one of 8\.9 here"):
        EngineRunner(plan)


def test_another_version_of_the_backend_is_refused(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    with pytest.raises(SlsError, match=r"needs tensorrt_rtx 1\.0, but tensorrt_rtx \d.* installed"):
        EngineRunner(plan)


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_a_pytorch_without_cuda_is_named(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    version = str(BACKENDS["tensorrt_rtx"].version)
    write_manifest(plan.with_suffix(".json"), replace(MANIFEST, backend_version=version))
    with pytest.raises(SlsError, match="needs a PyTorch that sees the GPU"):
        EngineRunner(plan)


def is_refused(shape: tuple[int, ...]) -> bool:
    try:
        check_size(shape, MANIFEST, "engine")
    except SlsError as error:
        return error.what.startswith("takes [1, 3, 16, 16] to [2, 3, 64, 64], not pictures")
    return False


@pytest.mark.parametrize(
    ("shape", "refused"),
    [
        ((1, 3, 16, 16), False),
        ((2, 3, 64, 64), False),
        ((1, 3, 20, 50), False),
        ((1, 3, 15, 16), True),
        ((3, 3, 64, 64), True),
        ((1, 3, 16, 65), True),
    ],
)
def test_only_sizes_within_the_profile_pass(shape: tuple[int, ...], refused: bool) -> None:
    assert is_refused(shape) == refused


def used_attributes(owner: str) -> set[str]:
    """Attributes that the runner takes from a variable (or self's field) of that name."""
    tree = ast.parse(Path(tensorrt.__file__).read_text("utf-8"))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id == owner)
            or (isinstance(node.value, ast.Attribute) and node.value.attr == f"_{owner}")
        )
    }


@pytest.mark.parametrize(
    ("owner", "kind"),
    [
        ("trt", ""),
        ("runtime", "Runtime"),
        ("engine", "ICudaEngine"),
        ("context", "IExecutionContext"),
    ],
)
def test_the_installed_module_has_all_that_the_runner_calls(owner: str, kind: str) -> None:
    module = BACKENDS["tensorrt_rtx"].load()
    vendor = getattr(module, kind) if kind else module
    used = used_attributes(owner)
    assert used
    assert used <= set(dir(vendor))


@pytest.mark.gpu
@pytest.mark.skipif(gpu_architecture() is None, reason="needs an NVIDIA GPU")
def test_an_engine_computes_what_onnx_runtime_computes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    (run.path / "config.toml").write_text(to_toml(Config()))
    source = run.folder("export", 0.5) / "model.fp32.onnx"
    source.parent.mkdir(parents=True)
    write_convolution(source)
    run.stage("export/b0.50", {}, lambda: [source])
    options = BuildConfig.model_validate(
        {
            "architectures": [gpu_architecture()],
            "precisions": ["fp32"],
            "opt_shape": (1, 3, 32, 32),
            "max_shape": (2, 3, 64, 64),
        }
    )
    result = build_engines(run, 0.5, options)[0]
    runner = EngineRunner(result.plan)
    reference = OnnxRunner(source)
    for shape in ((1, 3, 16, 16), (2, 3, 40, 64)):
        pictures = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.testing.assert_allclose(runner.run(pictures), reference.run(pictures), atol=1e-2)
    runner.close()
    with pytest.raises(SlsError, match="was closed"):
        runner.run(pictures)


def write_convolution(path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 9
    node = helper.make_node("Conv", ["input", "w"], ["output"], "conv", pads=[1] * 4)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w_"])
        for name in ("input", "output")
    ]
    graph = helper.make_graph(
        [node], "network", values[:1], values[1:], [numpy_helper.from_array(weight, "w")]
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
