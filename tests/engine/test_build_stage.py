from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from sls_deploy.config import BuildConfig
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress
from sls_deploy.run import Run

Maker = Callable[..., onnx.ModelProto]
Options = Callable[..., BuildConfig]
Recorder = Callable[[Run], None]


def files(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder("engines", 0.5).glob("*"))


def test_engines_of_every_architecture_stand_with_their_manifests(
    run: Run, build_options: Options
) -> None:
    options = build_options(architectures=("sm80", "sm86", "sm89"))
    results = build_engines(run, 0.5, options)
    stems = ["sm80-fp16", "sm86-fp16", "sm89-fp16"]
    assert [result.plan.stem for result in results] == stems
    assert files(run) == sorted(f"{stem}.{kind}" for stem in stems for kind in ("json", "plan"))
    assert len({verified_manifest(result.plan).plan_sha256 for result in results}) == 3


def test_progress_counts_the_engines(run: Run, build_options: Options) -> None:
    seen: list[Progress] = []
    build_engines(run, 0.5, build_options(), seen.append)
    told = [(progress.task, progress.done, progress.total) for progress in seen]
    assert told == [("build sm86-fp16", 0, 1), ("build", 1, 1)]


def test_an_engine_that_stands_is_not_built_again(
    built: tuple[Run, dict[str, EngineResult]], build_options: Options
) -> None:
    run, results = built
    before = results["fp16"].plan.stat().st_mtime_ns
    again = build_engines(run, 0.5, build_options())
    assert (again[0].skipped, results["fp16"].skipped) == (True, False)
    assert results["fp16"].plan.stat().st_mtime_ns == before


def test_changed_weights_or_shapes_or_a_lost_engine_are_built_again(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    first = build_engines(run, 0.5, build_options())[0]
    make_network(run.folder("export", 0.5) / "model.fp16.onnx", seed=1)
    record_export(run)
    second = build_engines(run, 0.5, build_options())[0]
    third = build_engines(run, 0.5, build_options(opt_shape=(1, 3, 48, 48)))[0]
    third.plan.unlink()
    fourth = build_engines(run, 0.5, build_options(opt_shape=(1, 3, 48, 48)))[0]
    assert not any(result.skipped for result in (first, second, third, fourth))
    assert second.manifest.plan_sha256 != first.manifest.plan_sha256
    assert fourth.manifest.opt_shape == (1, 3, 48, 48)


def test_a_budget_that_was_not_exported_is_refused(run: Run, build_options: Options) -> None:
    with pytest.raises(SlsError, match=r"budget 0\.25 was not exported \(done: 0\.5\)"):
        build_engines(run, 0.25, build_options())


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_graph_that_the_export_did_not_write_is_not_built(
    run: Run, build_options: Options, spoil: Callable[[Path], object]
) -> None:
    spoil(run.folder("export", 0.5) / "model.fp16.onnx")
    with pytest.raises(SlsError, match=r"budget 0\.5 must be exported again"):
        build_engines(run, 0.5, build_options())
    assert files(run) == []


def test_a_precision_that_was_not_exported_says_how_to_get_it(
    run: Run, build_options: Options, record_export: Recorder
) -> None:
    (run.folder("export", 0.5) / "model.fp32.onnx").unlink()
    record_export(run)
    options = build_options(precisions=("fp16", "fp32"))
    with pytest.raises(SlsError, match=r"`sls-deploy export --budget 0\.5 --precision fp32`"):
        build_engines(run, 0.5, options)
    assert files(run) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is an empty file"), (b"\x08\x09" + b"junk" * 50, "is not an ONNX file")],
)
def test_a_spoilt_graph_leaves_nothing_behind(
    run: Run, build_options: Options, record_export: Recorder, content: bytes, reason: str
) -> None:
    (run.folder("export", 0.5) / "model.fp16.onnx").write_bytes(content)
    record_export(run)
    with pytest.raises(SlsError, match=reason):
        build_engines(run, 0.5, build_options())
    assert files(run) == []


def test_a_refused_build_keeps_the_engine_that_stood(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    first = build_engines(run, 0.5, build_options())[0]
    path: Path = run.folder("export", 0.5) / "model.fp16.onnx"
    model = make_network(path)
    model.graph.node[2].op_type = "Frobnicate"
    onnx.save(model, path)
    record_export(run)
    with pytest.raises(SlsError, match="Frobnicate"):
        build_engines(run, 0.5, build_options())
    assert files(run) == ["sm86-fp16.json", "sm86-fp16.plan"]
    assert verified_manifest(first.plan) == first.manifest


def test_two_processes_cannot_build_in_one_run(run: Run, build_options: Options) -> None:
    with run.locked(), pytest.raises(SlsError, match="another process works in this run"):
        build_engines(run, 0.5, build_options())
    assert files(run) == []
