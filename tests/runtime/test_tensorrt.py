from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.engine.backend import Backend
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.device import Device
from sls_deploy.engine.evidence import Evidence, SparsityLog
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.engine.manifest import EngineManifest, remember_built, write_manifest
from sls_deploy.engine.request import BuildOptions, Tensor
from sls_deploy.errors import SlsError
from sls_deploy.files import cache_folder
from sls_deploy.runtime import tensorrt
from sls_deploy.runtime.tensorrt import EngineRunner, check_gpu, check_size, check_version
from tests.runtime.cuda_double import KERNELS, CudaDouble

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
    device=None,
    options=BuildOptions(),
    precision="fp16",
    budget=0.5,
    min_shape=(1, 3, 16, 16),
    opt_shape=(1, 3, 32, 32),
    max_shape=(2, 3, 64, 64),
    inputs=(Tensor("input", "FLOAT", (-1, 3, -1, -1)),),
    outputs=(Tensor("output", "FLOAT", (-1, 3, -1, -1)),),
    strongly_typed=True,
    from_cache=False,
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


A10 = Device("NVIDIA A10", "sm86", "550.54.15", "12.4", 23028, None, 1695, None, None)


def is_for(
    manifest: EngineManifest, monkeypatch: pytest.MonkeyPatch, name: str, architecture: str
) -> bool:
    """Whether an engine passes on a GPU of that name."""
    here = replace(A10, name=name, architecture=architecture)
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: architecture)
    monkeypatch.setattr(tensorrt, "present_device", lambda: here)
    try:
        check_gpu(manifest, "engine")
    except SlsError:
        return False
    return True


@pytest.mark.parametrize(
    ("architecture", "passes"), [("sm80", True), ("sm86", True), ("sm89", False), ("sm8", False)]
)
def test_an_engine_for_several_gpus_runs_on_each_of_them(
    monkeypatch: pytest.MonkeyPatch, architecture: str, passes: bool
) -> None:
    manifest = replace(MANIFEST, architecture="sm80+sm86")
    assert is_for(manifest, monkeypatch, "any", architecture) == passes


@pytest.mark.parametrize(
    ("compatibility", "name", "architecture", "passes"),
    [
        ("none", "NVIDIA A10", "sm86", True),
        ("none", "NVIDIA GeForce RTX 3090", "sm86", False),
        ("same", "NVIDIA GeForce RTX 3090", "sm86", True),
        ("same", "NVIDIA L4", "sm89", False),
        ("ampere+", "NVIDIA L4", "sm89", True),
        ("ampere+", "NVIDIA B200", "sm100", True),
        ("ampere+", "Tesla T4", "sm75", False),
    ],
)
def test_an_engine_of_tensorrt_is_for_the_model_of_gpu_that_it_was_timed_on(
    monkeypatch: pytest.MonkeyPatch,
    compatibility: str,
    name: str,
    architecture: str,
    passes: bool,
) -> None:
    options = BuildOptions(hardware_compatibility=compatibility)  # type: ignore[arg-type]
    manifest = replace(MANIFEST, backend="tensorrt", device=A10, options=options)
    assert is_for(manifest, monkeypatch, name, architecture) == passes


def test_both_models_of_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = replace(MANIFEST, backend="tensorrt", device=A10)
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    monkeypatch.setattr(tensorrt, "present_device", lambda: replace(A10, name="NVIDIA A40"))
    with pytest.raises(SlsError, match="was built on an NVIDIA A10, and there is an NVIDIA A40"):
        check_gpu(manifest, "engine")


@pytest.mark.parametrize(
    ("built", "installed", "compatible", "passes"),
    [
        ("10.13.0.35", "10.13.0.35", False, True),
        ("10.13.0.35", "10.14.1.48", False, False),
        ("10.13.0.35", "10.14.1.48", True, True),
        ("10.9.0.34", "10.13.0.35", True, True),
        ("10.13.0.35", "10.9.0.34", True, False),
        ("10.13.0.35", "11.0.0.1", True, True),
        ("11.0.0.1", "10.13.0.35", True, False),
        ("11.0.0.1", "11.1.0.5", True, True),
        ("10.13.0.35", "12.0.0.1", True, False),
        ("11.0.0.1", "12.0.0.1", True, False),
        ("unknown", "11.0.0.1", True, False),
        ("10.13.0.35", None, True, False),
    ],
)
def test_only_a_version_compatible_engine_runs_on_a_later_version(
    monkeypatch: pytest.MonkeyPatch,
    built: str,
    installed: str | None,
    compatible: bool,
    passes: bool,
) -> None:
    monkeypatch.setattr(Backend, "version", installed)
    options = BuildOptions(version_compatible=compatible)
    manifest = replace(MANIFEST, backend="tensorrt", backend_version=built, options=options)
    if passes:
        check_version(manifest, "engine")
    else:
        with pytest.raises(SlsError, match=rf"needs tensorrt {built}( or a later .*)?, but"):
            check_version(manifest, "engine")


@pytest.mark.parametrize(("built", "named"), [("10.13.0.35", "10.x or 11.x"), ("11.0.0.1", "11.x")])
def test_versions_that_load_a_compatible_engine_are_named(
    monkeypatch: pytest.MonkeyPatch, built: str, named: str
) -> None:
    monkeypatch.setattr(Backend, "version", "9.0")
    options = BuildOptions(version_compatible=True)
    manifest = replace(MANIFEST, backend="tensorrt", backend_version=built, options=options)
    with pytest.raises(SlsError, match=f"{built} or a later {named}, but tensorrt 9.0 is"):
        check_version(manifest, "engine")


def runner_on_double(
    plan: Path, monkeypatch: pytest.MonkeyPatch, manifest: EngineManifest = MANIFEST
) -> tuple[EngineRunner, CudaDouble]:
    """A runner of an engine that doubles its input."""
    cuda = CudaDouble(monkeypatch)
    cuda.dtype = manifest.inputs[0].dtype
    version = str(BACKENDS["tensorrt_rtx"].version)
    write_manifest(plan.with_suffix(".json"), replace(manifest, backend_version=version))
    monkeypatch.setattr(tensorrt, "gpu_architecture", lambda: "sm86")
    monkeypatch.setattr(tensorrt, "BACKENDS", {"tensorrt_rtx": cuda.backend("tensorrt_rtx")})
    return EngineRunner(plan), cuda


def test_restores_times_and_profiles_a_batch(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, _ = runner_on_double(plan, monkeypatch)
    pictures = np.random.default_rng(0).random((2, 3, 16, 20), dtype=np.float32)
    np.testing.assert_array_equal(runner.run(pictures), 2 * pictures)
    assert runner.stopwatch(pictures)() == 1.5
    times = runner.profile(pictures, 2)
    assert times is not None
    assert [(time.name, time.device, time.ms) for time in times] == [
        ("conv", "tensorrt_rtx", 2.0),
        ("shuffle", "tensorrt_rtx", 1.0),
    ]


def test_an_engine_for_bytes_gets_and_gives_bytes(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = (Tensor("input", "UINT8", (-1, -1, -1, 3)),)
    manifest = replace(MANIFEST, inputs=tensors, outputs=tensors)
    runner, cuda = runner_on_double(plan, monkeypatch, manifest)
    pictures = np.full((1, 3, 16, 20), 0.2, np.float32)
    np.testing.assert_allclose(runner.run(pictures), 0.4)
    assert "shape 1x16x20x3" in cuda.take()


def test_a_batch_beyond_the_profile_is_refused_by_everything(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = runner_on_double(plan, monkeypatch)
    large = np.zeros((3, 3, 16, 16), np.float32)
    for use in (runner.run, runner.stopwatch, lambda pictures: runner.profile(pictures, 1)):
        with pytest.raises(SlsError, match="not pictures of shape"):
            use(large)


def test_compiled_kernels_are_kept_by_the_hash_of_the_engine(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = runner_on_double(plan, monkeypatch)
    runner.run(np.zeros((1, 3, 16, 16), np.float32))
    runner.close()
    assert (cache_folder() / "kernels" / MANIFEST.plan_sha256).read_bytes() == KERNELS


def test_of_compiled_kernels_the_newest_stay(
    plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLS_DEPLOY_CACHE", str(tmp_path / "cache"))
    folder = cache_folder() / "kernels"
    folder.mkdir(parents=True)
    for number in range(60):
        older = folder / f"{number:02}"
        older.write_bytes(b"")
        os.utime(older, (1000 + number, 1000 + number))
    runner, _ = runner_on_double(plan, monkeypatch)
    runner.run(np.zeros((1, 3, 16, 16), np.float32))
    runner.close()
    left = {path.name for path in folder.iterdir()}
    assert left == {MANIFEST.plan_sha256} | {f"{number:02}" for number in range(11, 60)}


def test_only_an_engine_that_was_built_here_may_bring_code(
    plan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLS_DEPLOY_CACHE", str(tmp_path / "cache"))
    compatible = replace(MANIFEST, options=BuildOptions(version_compatible=True))

    def loading(manifest: EngineManifest) -> list[str]:
        with monkeypatch.context() as patch:
            return runner_on_double(plan, patch, manifest)[1].take()

    with pytest.raises(SlsError, match="may bring code for this machine and was not built here"):
        loading(compatible)
    remember_built(compatible)
    assert loading(compatible) == ["load, host code True"]
    assert loading(MANIFEST) == ["load, host code False"]
