from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.errors import OutOfMemory, SlsError
from sls_deploy.runtime import engine_context, loaded_engine, rtx_kernels
from sls_deploy.runtime.loaded_engine import LoadedEngine
from tests.runtime.cuda_double import (
    KERNELS,
    OLD_DRIVER,
    CudaDouble,
    kernels_of,
    vendor_names,
)

SHAPE = (1, 3, 8, 8)
PICTURE = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
NEW_SHAPE = ["context", "memory", "shape 1x3x8x8", "address of input", "address of output"]
RECORDING = ["begin recording", "execute", "end recording"]
STOPPED = ["replay", "event", "replay", "event", "wait"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    return CudaDouble(monkeypatch)


def load(cuda: CudaDouble, name: str = "tensorrt", **options: object) -> LoadedEngine:
    engine = LoadedEngine(cuda.backend(name), b"plan", "engine", **options)  # type: ignore[arg-type]
    cuda.take()
    return engine


def test_a_new_shape_runs_once_before_it_is_recorded(cuda: CudaDouble) -> None:
    load(cuda).run(PICTURE)
    assert cuda.take() == [*NEW_SHAPE, "execute", *RECORDING, "replay"]


def test_a_known_shape_is_only_replayed_and_computes_on_its_own_input(cuda: CudaDouble) -> None:
    engine = load(cuda)
    first = engine.run(PICTURE).copy()  # the double has no other memory to copy it to
    cuda.take()
    second = engine.run(PICTURE + 1)
    assert cuda.take() == ["replay"]
    np.testing.assert_array_equal(first, 2 * PICTURE)
    np.testing.assert_array_equal(second, 2 * (PICTURE + 1))


def test_each_shape_is_recorded_once(cuda: CudaDouble) -> None:
    engine = load(cuda)
    for _ in range(2):
        for side in (8, 9, 10, 11):
            engine.run(np.ones((1, 3, side, 8), np.float32))
    calls = cuda.take()
    assert (calls.count("begin recording"), calls.count("context")) == (4, 4)


def test_the_shape_that_was_used_longest_ago_is_forgotten(cuda: CudaDouble) -> None:
    engine = load(cuda)
    for side in (8, 9, 10, 11, 8, 12):
        engine.run(np.ones((1, 3, side, 8), np.float32))
    cuda.take()
    engine.run(np.ones((1, 3, 8, 8), np.float32))
    assert "context" not in cuda.take()
    engine.run(np.ones((1, 3, 9, 8), np.float32))
    assert "context" in cuda.take()


def test_without_a_recording_it_runs_plainly_says_why_and_does_not_try_again(
    cuda: CudaDouble,
) -> None:
    cuda.records = False
    engine = load(cuda)
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)
    assert cuda.take()[-2:] == ["set_stream", "execute"]
    assert "not permitted when stream is capturing" in engine.note
    engine.run(np.ones((1, 3, 9, 8), np.float32))
    assert "begin recording" not in cuda.take()


def test_the_vendors_own_reason_for_no_recording_is_told(cuda: CudaDouble) -> None:
    cuda.refusal = "[runner.cpp::execute::9] Error Code 1: the vendor's reason"
    engine = load(cuda)
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)
    assert engine.note.endswith("could be recorded (the vendor's reason)")


def test_graphs_can_be_left_out(cuda: CudaDouble) -> None:
    engine = load(cuda, graphs=False)
    engine.run(PICTURE)
    assert cuda.take() == [*NEW_SHAPE, "execute", "execute"]
    assert not engine.note


def test_tensorrt_rtx_records_by_itself_and_compiles_before_it_runs(cuda: CudaDouble) -> None:
    engine = load(cuda, "tensorrt_rtx")
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)
    assert cuda.take() == [*NEW_SHAPE, "execute", "execute"]
    made = cuda.configurations[0]
    assert made.cuda_graph_strategy == cuda.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    strategies = cuda.trt.DynamicShapesKernelSpecializationStrategy
    assert made.dynamic_shapes_kernel_specialization_strategy == strategies.EAGER


def test_tensorrt_rtx_is_told_to_leave_graphs_out(cuda: CudaDouble) -> None:
    cuda.records = False
    engine = load(cuda, "tensorrt_rtx", graphs=False)
    engine.run(PICTURE)
    strategies = cuda.trt.CudaGraphStrategy
    assert cuda.configurations[0].cuda_graph_strategy == strategies.DISABLED
    assert not engine.note


@pytest.mark.parametrize("records", [True, False])
def test_tensorrt_rtx_is_asked_whether_it_records(cuda: CudaDouble, records: bool) -> None:
    cuda.records = records
    engine = load(cuda, "tensorrt_rtx")
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)
    assert ("CUDA graphs are not used, because the engine allocates" in engine.note) != records


def test_compiled_kernels_are_used_again_and_kept(cuda: CudaDouble, tmp_path: Path) -> None:
    path = kernels_of(tmp_path)
    engine = load(cuda, "tensorrt_rtx", kernels=path)
    for side in (8, 9):
        engine.run(np.ones((1, 3, side, 8), np.float32))
    first, second = (made.cache for made in cuda.configurations)
    assert first is second
    assert cuda.restored == [b"older kernels"]
    engine.close()
    assert path.read_bytes() == KERNELS


def test_kernels_that_cannot_be_kept_are_no_error(cuda: CudaDouble, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    engine = load(cuda, "tensorrt_rtx", kernels=blocked / "engine")
    engine.run(PICTURE)
    engine.close()


def test_a_stopwatch_stands_around_one_replay_while_the_gpu_is_busy(cuda: CudaDouble) -> None:
    stopwatch = load(cuda).stopwatch(SHAPE)
    cuda.take()
    assert stopwatch() == 1.5
    assert cuda.take() == STOPPED


def test_a_stopwatch_keeps_no_context(cuda: CudaDouble) -> None:
    engine = load(cuda)
    stopwatch = engine.stopwatch(SHAPE)
    for side in (9, 10, 11, 12):
        engine.run(np.ones((1, 3, side, 8), np.float32))
    assert cuda.freed == ["context"]
    cuda.take()
    assert stopwatch() == 1.5
    assert cuda.take() == [*NEW_SHAPE, "execute", *RECORDING, *STOPPED]
    source = [buffer for buffer in cuda.buffers.values() if buffer.shape == SHAPE][-2]
    assert float(source.std()) > 0.1  # random again


@pytest.mark.parametrize(("dtype", "largest"), [("FLOAT", 1.0), ("HALF", 1.0), ("UINT8", 127.0)])
def test_a_stopwatch_runs_on_random_input(cuda: CudaDouble, dtype: str, largest: float) -> None:
    cuda.dtype = dtype
    load(cuda).stopwatch(SHAPE)
    source = next(buffer for buffer in cuda.buffers.values() if buffer.dim() == 4).float()
    assert largest / 2 < float(source.max()) <= largest
    assert float(source.std()) > 0.1 * largest


def test_a_profile_names_layers_in_order_and_runs_without_graphs(cuda: CudaDouble) -> None:
    times = load(cuda).profile(SHAPE, repeats=3)
    assert list(times.items()) == [("conv", 2.0), ("shuffle", 1.0)]
    assert cuda.take() == [*NEW_SHAPE, *["execute"] * 5, "synchronize"]


def test_tells_what_the_inspector_tells(cuda: CudaDouble) -> None:
    assert load(cuda).information() == "told as JSON"


@pytest.mark.parametrize("allowed", [False, True])
def test_code_for_the_host_is_allowed_only_where_asked(cuda: CudaDouble, allowed: bool) -> None:
    LoadedEngine(cuda.backend("tensorrt"), b"plan", "engine", host_code=allowed)
    assert cuda.take() == [f"load, host code {allowed}"]


def test_a_closed_engine_refuses_everything(cuda: CudaDouble) -> None:
    engine = load(cuda)
    stopwatch = engine.stopwatch(SHAPE)
    engine.close()
    engine.close()
    for use in (
        stopwatch,
        engine.information,
        lambda: engine.run(PICTURE),
        lambda: engine.stopwatch(SHAPE),
        lambda: engine.profile(SHAPE, 1),
    ):
        with pytest.raises(SlsError, match="engine: was closed"):
            use()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("tensorrt", ["context", "engine", "runtime"]),
        ("tensorrt_rtx", ["context", "cache", "engine", "runtime"]),
    ],
)
def test_all_is_freed_in_order_while_a_stopwatch_lives(
    cuda: CudaDouble, tmp_path: Path, name: str, order: list[str]
) -> None:
    engine = load(cuda, name, kernels=tmp_path / "kernels")
    stopwatch = engine.stopwatch(SHAPE)
    stopwatch()
    cuda.configurations.clear()  # the double keeps them for other tests
    engine.close()
    assert cuda.freed == order


def test_a_module_that_cannot_start_says_why(cuda: CudaDouble) -> None:
    cuda.starts = False
    with pytest.raises(SlsError, match=f"engine: tensorrt cannot start here: {OLD_DRIVER}"):
        load(cuda)


def test_an_engine_that_cannot_be_loaded_is_an_error(cuda: CudaDouble) -> None:
    cuda.loads = False
    with pytest.raises(SlsError, match="engine: cannot be loaded"):
        load(cuda)


def test_a_shape_that_the_engine_does_not_take_is_named(cuda: CudaDouble) -> None:
    with pytest.raises(SlsError, match=r"takes no input of shape \[1, 3, 65, 8\]"):
        load(cuda).run(np.ones((1, 3, 65, 8), np.float32))


def test_gpu_memory_that_ran_out_is_told_apart_and_less_still_runs(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, empty = load(cuda), torch.empty

    def full(shape: tuple[int, ...], **options: Any) -> torch.Tensor:
        if shape == (1, 3, 9, 8):
            raise torch.cuda.OutOfMemoryError
        return empty(shape, **options)

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(OutOfMemory, match=r"ran out of GPU memory for a tensor of \[1, 3, 9, 8\]"):
        engine.run(np.ones((1, 3, 9, 8), np.float32))
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (torch.cuda.OutOfMemoryError("no room"), OutOfMemory, "ran out of GPU memory on an input"),
        (RuntimeError("CUDA error: misaligned address"), SlsError, "failed on the GPU.*misaligned"),
    ],
)
def test_what_cuda_says_while_it_runs_is_an_error_of_ours(
    cuda: CudaDouble,
    monkeypatch: pytest.MonkeyPatch,
    said: Exception,
    kind: type[SlsError],
    told: str,
) -> None:
    engine = load(cuda)
    with monkeypatch.context() as patch:
        patch.setattr(engine_context.EngineContext, "launch", Mock(side_effect=said))
        with pytest.raises(kind, match=told):
            engine.run(PICTURE)
    np.testing.assert_array_equal(engine.run(PICTURE), 2 * PICTURE)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("1: [defaultAllocator.cpp::allocate::19] Cuda Runtime (out of memory)", OutOfMemory),
        ("[executionContext.cpp] Error Code 2: OutOfMemory", OutOfMemory),
        ("Error Code 3: API Usage Error", SlsError),
    ],
)
def test_memory_that_the_vendor_cannot_get_is_told_apart(said: str, kind: type[SlsError]) -> None:
    log = Mock(first_error=Mock(return_value=said))
    assert type(engine_context.refused("failed", log, "engine")) is kind


def test_input_of_another_type_is_named(cuda: CudaDouble) -> None:
    with pytest.raises(SlsError, match=r"takes torch\.float32, not torch\.uint8"):
        load(cuda).run(np.ones(SHAPE, np.uint8))


@pytest.mark.parametrize("dtype", ["INT64", "BF16", "INT8"])
def test_a_type_that_no_picture_has_is_named(cuda: CudaDouble, dtype: str) -> None:
    cuda.dtype = dtype
    with pytest.raises(SlsError, match=f"tensors of type {dtype}"):
        load(cuda)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch sees a GPU")
def test_a_pytorch_that_sees_no_gpu_is_named() -> None:
    with pytest.raises(SlsError, match="needs a PyTorch that sees the GPU"):
        LoadedEngine(BACKENDS["tensorrt_rtx"], b"plan", "engine")


@pytest.mark.parametrize(("double", "name"), vendor_names().items())
def test_the_double_has_nothing_that_the_vendors_class_lacks(double: type, name: str) -> None:
    vendor = getattr(BACKENDS["tensorrt_rtx"].load(), name)
    used = {attribute for attribute in vars(double) if not attribute.startswith("_")}
    assert used
    assert used <= set(dir(vendor))


def used_attributes(module: object, owner: str) -> set[str]:
    """Attributes that a module takes from a variable (or self's field) of that name."""
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))  # type: ignore[attr-defined]
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
    ("module", "owner", "kind"),
    [
        (loaded_engine, "trt", ""),
        (loaded_engine, "runtime", "Runtime"),
        (loaded_engine, "engine", "ICudaEngine"),
        (loaded_engine, "made", "IExecutionContext"),
        (loaded_engine, "inspector", "EngineInspector"),
        (engine_context, "trt", ""),
        (engine_context, "engine", "ICudaEngine"),
        (engine_context, "context", "IExecutionContext"),
        (rtx_kernels, "trt", ""),
        (rtx_kernels, "engine", "ICudaEngine"),
        (rtx_kernels, "config", "IRuntimeConfig"),
        (rtx_kernels, "context", "IExecutionContext"),
        (rtx_kernels, "cache", "IRuntimeCache"),
    ],
)
def test_the_installed_module_has_all_that_is_called(module: object, owner: str, kind: str) -> None:
    trt = BACKENDS["tensorrt_rtx"].load()
    used = used_attributes(module, owner)
    assert used
    assert used <= set(dir(getattr(trt, kind) if kind else trt))


def test_every_keyword_is_one_of_the_installed_modules() -> None:
    trt = BACKENDS["tensorrt_rtx"].load()
    assert "runtime_config: " in trt.ICudaEngine.create_execution_context.__doc__  # type: ignore[union-attr]
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None  # type: ignore[union-attr]
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None  # type: ignore[union-attr]
    assert trt.LayerInformationFormat.JSON is not None  # type: ignore[union-attr]
