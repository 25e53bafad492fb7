"""What our source calls of TensorRT is there: in the installed module, and in the types of 10.13.

Most of that source needs a GPU and never runs here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sls_deploy.engine.backends import BACKENDS
from tests.engine.vendor_calls import Findings, Use, check_source
from tests.engine.vendor_signatures import signatures

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in (
        "sls_deploy/engine",
        "sls_deploy/runtime",
        "sls_deploy/doctor",
        "calibration",
        "sls_deploy/package/templates",
    )
    for path in (ROOT / folder).glob("*.py")
)
STUBS = ROOT / ".stubs"
TYPES = STUBS / "tensorrt_bindings" / "tensorrt.pyi"

ONLY_RTX = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION": "tensorrt leaves CUDA graphs to the caller",
    "ComputeCapability": "tensorrt builds for the GPU that is present",
    "CudaGraphStrategy": "tensorrt leaves CUDA graphs to the caller",
    "DynamicShapesKernelSpecializationStrategy": "tensorrt compiles nothing at loading",
    "IRuntimeCache": "tensorrt compiles nothing at loading",
    "IExecutionContext.is_stream_capturable": "tensorrt leaves CUDA graphs to the caller",
    "IBuilderConfig.num_compute_capabilities": "tensorrt builds for the GPU that is present",
    "IBuilderConfig.set_compute_capability": "tensorrt builds for the GPU that is present",
    "IRuntimeConfig.create_runtime_cache": "tensorrt compiles nothing at loading",
    "IRuntimeConfig.cuda_graph_strategy": "tensorrt leaves CUDA graphs to the caller",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "as its type",
    "IRuntimeConfig.set_runtime_cache": "tensorrt compiles nothing at loading",
}
"""What our source uses of tensorrt_rtx alone; a class stands for all of its members."""

ONLY_TENSORRT: dict[str, str] = {}
"""What our source uses of tensorrt alone."""

CALLED = {
    "Builder.build_serialized_network",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.execute_async_v3",
    "ILogger.log",
    "IOptimizationProfile.set_shape",
    "IProfiler.report_layer_time",
    "OnnxParser.parse_from_file",
    "Runtime.deserialize_cuda_engine",
}
"""What must be found at least, or the search is blind."""

MODULE = BACKENDS["tensorrt_rtx"].load()
pytestmark = pytest.mark.skipif(MODULE is None, reason="needs tensorrt_rtx (extra 'cpu')")


def findings(source: str) -> Findings:
    assert MODULE is not None
    return check_source(source, MODULE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_all_that_is_used_is_in_the_installed_module(path: Path) -> None:
    excused = {f"there is no {name}" for name in ONLY_TENSORRT}
    problems = findings(path.read_text()).problems
    assert [text for text in problems if text.partition(": ")[2] not in excused] == []


def test_the_search_sees_what_is_used() -> None:
    found = {str(use) for path in SOURCES for use in findings(path.read_text()).uses}
    assert found >= CALLED


def test_no_object_of_the_vendors_is_left_unknown() -> None:
    """What only the vendor's classes have is not checked on an object without annotation."""
    ours = {
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    theirs = {
        member
        for kind in vars(MODULE).values()
        if isinstance(kind, type)
        for member in vars(kind)
        if "_" in member.strip("_") and not member.startswith("_")
    }
    loose = {
        f"{path.name}: {name}"
        for path in SOURCES
        for name in findings(path.read_text()).loose & theirs - ours
    }
    assert loose == set()


@pytest.mark.skipif(not TYPES.is_file(), reason="`make check` fetches the types of TensorRT 10.13")
def test_all_that_is_used_is_in_tensorrt_too() -> None:
    used = {use for path in SOURCES for use in findings(path.read_text()).uses}
    members = stub_members(ast.parse(TYPES.read_text()))
    missing = {use for use in used if use.member not in members.get(use.owner, set())}
    excused = {use for use in missing if {str(use), use.owner.split(".")[0]} & set(ONLY_RTX)}
    assert sorted(map(str, missing - excused)) == []
    reasons = {str(use) if str(use) in ONLY_RTX else use.owner.split(".")[0] for use in excused}
    assert reasons == set(ONLY_RTX)


def stub_members(tree: ast.Module | ast.ClassDef, owner: str = "") -> dict[str, set[str]]:
    """Members by class; those of the module under ''."""
    found: dict[str, set[str]] = {owner: set()}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[owner].add(node.name)
            found |= stub_members(node, f"{owner}.{node.name}".strip("."))
        elif isinstance(node, ast.FunctionDef):
            found[owner].add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[owner].add(node.target.id)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("trt.Bilder(log)", "line 1: there is no Bilder"),
        ("trt.BuilderFlag.SPARSE", "line 1: there is no BuilderFlag.SPARSE"),
        ("getattr(trt.BuilderFlag, 'SPARSE')", "line 1: there is no BuilderFlag.SPARSE"),
        ("def f(c: IBuilderConfig): c.sparse()", "line 1: there is no IBuilderConfig.sparse"),
        ("def f(e: ICudaEngine | None): e.run()", "line 1: there is no ICudaEngine.run"),
        ("def f(config: Any): config.aim(1)", "line 1: there is no IBuilderConfig.aim"),
        (
            "def f(c: IBuilderConfig): c.set_flag(bit=1)",
            "line 1: c.set_flag does not take these arguments: c.set_flag(bit=1)",
        ),
        (
            "def f(p: IOptimizationProfile): p.set_shape('x', a, b)",
            "line 1: p.set_shape does not take these arguments: p.set_shape('x', a, b)",
        ),
        (
            "def f(c: IBuilderConfig): c.set_flag(trt.MemoryPoolType.WORKSPACE)",
            "line 1: c.set_flag takes other types: c.set_flag(trt.MemoryPoolType.WORKSPACE)",
        ),
        (
            "def f(c: IBuilderConfig): c.profiling_verbosity = trt.BuilderFlag.TF32",
            "line 1: IBuilderConfig.profiling_verbosity is given a BuilderFlag",
        ),
        (
            "def f(n: INetworkDefinition): n.num_inputs = 1",
            "line 1: INetworkDefinition.num_inputs cannot be written",
        ),
        (
            "b = trt.Builder(x)\nn = b.create_network(0)\nn.get_input(0).form",
            "line 3: there is no ITensor.form",
        ),
        (
            "class A:\n def __init__(self, c: IExecutionContext):\n  self._c, self._d = c, 1\n"
            " def g(self): self._c.go()",
            "line 4: there is no IExecutionContext.go",
        ),
        (
            "flag = trt.BuilderFlag\nx = flag.TF31 if y else 0",
            "line 2: there is no BuilderFlag.TF31",
        ),
        (
            "class P(trt.IProfiler):\n def report(self, name, ms): ...",
            "line 2: there is no IProfiler.report",
        ),
        (
            "class P(trt.IProfiler):\n def report_layer_time(self, name): ...",
            "line 2: report_layer_time takes 2 parameters",
        ),
        (
            "try:\n for i in range(3):\n  with x: [trt.Logger.LEVEL for _ in y]\nfinally: pass",
            "line 3: there is no Logger.LEVEL",
        ),
    ],
)
def test_a_wrong_use_is_found(source: str, expected: str) -> None:
    assert findings(source).problems == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "getattr(trt.BuilderFlag, 'SPARSE', None)",
        "def f(e: ICudaEngine): e.create_execution_context(runtime_config=None)",
        "def f(e: ICudaEngine): e.create_execution_context()",
        "log = trt.Logger(trt.Logger.ERROR)\ntrt.Builder(logger=log).create_network()",
        "def f(other: Any): other.anything(1)",
    ],
)
def test_a_right_use_passes(source: str) -> None:
    assert findings(source).problems == []


def test_signatures_are_read_from_documentation() -> None:
    text = """f(*args, **kwargs)
    1. f(self: m.A, x: dict[str, int] = {'a': 1, 'b': 2}) -> m.B
    2. f(self: m.A, y: Callable[[int, int], None], z: int = 0) -> None
    """
    first, second = signatures("f", text)
    assert (first.names, first.optional, first.returns) == (("self", "x"), 1, "m.B")
    assert (second.names, second.optional) == (("self", "y", "z"), 1)
    assert second.accepts(1, {"y"})
    assert not second.accepts(1, {"z"})
    assert not second.accepts(4, set())


def test_uses_are_named_by_class_and_member() -> None:
    assert findings("trt.ILogger.Severity.ERROR").uses == {
        Use("", "ILogger"),
        Use("ILogger", "Severity"),
        Use("ILogger.Severity", "ERROR"),
    }


WRONG = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from tensorrt import IBuilderConfig, ICudaEngine, IOptimizationProfile, Runtime

def right(config: IBuilderConfig, profile: IOptimizationProfile, runtime: Runtime) -> str:
    profile.set_shape("input", (1, 3, 16, 16), (1, 3, 16, 16), max=(1, 3, 16, 16))
    config.builder_optimization_level = 3
    engine: ICudaEngine | None = runtime.deserialize_cuda_engine(b"")
    if engine is None:
        return "nothing"
    return engine.get_tensor_name(0)

def wrong(config: IBuilderConfig, profile: IOptimizationProfile) -> None:
    profile.set_shape("input", (1,), (1,), most=(1,))
    config.set_memory_pool_limits(1, 2)
    config.builder_optimization_level = "high"
"""


@pytest.mark.skipif(not TYPES.is_file(), reason="`make check` fetches the types of TensorRT 10.13")
def test_mypy_finds_wrong_calls_of_tensorrt(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(WRONG)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, snippet],
        env={"MYPYPATH": str(STUBS), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    kinds = [line.split()[-1] for line in done.stdout.splitlines() if ": error: " in line]
    assert kinds == ["[call-arg]", "[attr-defined]", "[assignment]"], done.stdout
