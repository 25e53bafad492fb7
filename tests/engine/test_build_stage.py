from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from sls_deploy.config import BuildConfig
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.engine.request import BuildOptions
from sls_deploy.engine.stage import EngineResult, build_engines
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress
from sls_deploy.run import Run

Maker = Callable[..., onnx.ModelProto]
Options = Callable[..., BuildConfig]
Recorder = Callable[..., None]


def files(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder("engines", 0.5).glob("*"))


def test_engines_of_every_architecture_stand_with_their_manifests(
    run: Run, build_options: Options
) -> None:
    options = build_options(architectures=("sm80", "sm86", "sm89"))
    results = build_engines(run, [0.5], options)
    stems = ["sm80-fp16", "sm86-fp16", "sm89-fp16"]
    assert [result.plan.stem for result in results] == stems
    assert files(run) == sorted(f"{stem}.{kind}" for stem in stems for kind in ("json", "plan"))
    assert len({verified_manifest(result.plan).plan_sha256 for result in results}) == 3


def test_progress_counts_the_engines(run: Run, build_options: Options) -> None:
    seen: list[Progress] = []
    build_engines(run, [0.5], build_options(), seen.append)
    told = [(progress.task, progress.done, progress.total) for progress in seen]
    assert told == [("build", 0, 1), ("build", 1, 1)]


def test_an_engine_that_stands_is_not_built_again(
    built: tuple[Run, dict[str, EngineResult]], build_options: Options
) -> None:
    run, results = built
    before = results["fp16"].plan.stat().st_mtime_ns
    again = build_engines(run, [0.5], build_options())
    assert (again[0].skipped, results["fp16"].skipped) == (True, False)
    assert results["fp16"].plan.stat().st_mtime_ns == before


def test_changed_weights_or_shapes_or_a_lost_engine_are_built_again(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    first = build_engines(run, [0.5], build_options())[0]
    make_network(run.folder("export", 0.5) / "model.fp16.onnx", seed=1)
    record_export(run)
    second = build_engines(run, [0.5], build_options())[0]
    third = build_engines(run, [0.5], build_options(opt_shape=(1, 3, 48, 48)))[0]
    third.plan.unlink()
    fourth = build_engines(run, [0.5], build_options(opt_shape=(1, 3, 48, 48)))[0]
    assert not any(result.skipped for result in (first, second, third, fourth))
    assert second.manifest.plan_sha256 != first.manifest.plan_sha256
    assert fourth.manifest.opt_shape == (1, 3, 48, 48)


def test_a_budget_that_was_not_exported_is_refused(run: Run, build_options: Options) -> None:
    with pytest.raises(SlsError, match=r"budget 0\.25 was not exported \(done: 0\.5\)"):
        build_engines(run, [0.25], build_options())


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_graph_that_the_export_did_not_write_is_not_built(
    run: Run, build_options: Options, spoil: Callable[[Path], object]
) -> None:
    spoil(run.folder("export", 0.5) / "model.fp16.onnx")
    with pytest.raises(SlsError, match=r"budget 0\.5 must be exported again"):
        build_engines(run, [0.5], build_options())
    assert files(run) == []


def test_a_precision_that_was_not_exported_says_how_to_get_it(
    run: Run, build_options: Options, record_export: Recorder
) -> None:
    (run.folder("export", 0.5) / "model.fp32.onnx").unlink()
    record_export(run)
    options = build_options(precisions=("fp16", "fp32"))
    with pytest.raises(SlsError, match=r"`sls-deploy export --budget 0\.5 --precision fp32`"):
        build_engines(run, [0.5], options)
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
        build_engines(run, [0.5], build_options())
    assert files(run) == []


def test_a_refused_build_keeps_the_engine_that_stood(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    first = build_engines(run, [0.5], build_options())[0]
    path: Path = run.folder("export", 0.5) / "model.fp16.onnx"
    model = make_network(path)
    model.graph.node[2].op_type = "Frobnicate"
    onnx.save(model, path)
    record_export(run)
    with pytest.raises(SlsError, match="Frobnicate"):
        build_engines(run, [0.5], build_options())
    assert files(run) == ["sm86-fp16.json", "sm86-fp16.plan"]
    assert verified_manifest(first.plan) == first.manifest


def test_two_processes_cannot_build_in_one_run(run: Run, build_options: Options) -> None:
    with run.locked(), pytest.raises(SlsError, match="another process works in this run"):
        build_engines(run, [0.5], build_options())
    assert files(run) == []


def test_all_budgets_targets_and_precisions_are_built_at_once(
    run: Run, build_options: Options, record_export: Recorder
) -> None:
    shutil.copytree(run.folder("export", 0.5), run.folder("export", 0.25))
    record_export(run, 0.25)
    options = build_options(architectures=("sm80+sm86", "sm89"), precisions=("fp32", "fp16"))
    results = build_engines(run, [0.5, 0.25], options)
    assert [(result.manifest.budget, result.plan.stem) for result in results] == [
        (budget, stem)
        for budget in (0.5, 0.25)
        for stem in ("sm80+sm86-fp32", "sm80+sm86-fp16", "sm89-fp32", "sm89-fp16")
    ]
    assert all(verified_manifest(result.plan) == result.manifest for result in results)


def test_a_build_that_fails_does_not_stop_the_others(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    path = run.folder("export", 0.5) / "model.fp32.onnx"
    model = make_network(path, "fp32")
    model.graph.node[1].op_type = "Frobnicate"
    onnx.save(model, path)
    record_export(run)
    options = build_options(precisions=("fp32", "fp16"))
    with pytest.raises(SlsError, match=r"Frobnicate.*\(1 of 2 builds failed, the others are done"):
        build_engines(run, [0.5], options)
    assert files(run) == ["sm86-fp16.json", "sm86-fp16.plan"]
    assert build_engines(run, [0.5], build_options())[0].skipped


def test_an_engine_built_before_comes_from_the_cache(
    run: Run, build_options: Options, tmp_path: Path
) -> None:
    first = build_engines(run, [0.5], build_options())[0]
    other = Run.open(Path(shutil.copytree(run.path, tmp_path / "other")))
    shutil.rmtree(other.path / "engines")
    second = build_engines(other, [0.5], build_options())[0]
    assert (first.manifest.from_cache, second.manifest.from_cache) == (False, True)
    assert replace(second.manifest, from_cache=False) == first.manifest
    third = build_engines(other, [0.5], build_options(workspace_mib=4096))[0]
    assert not third.manifest.from_cache


def test_a_cache_that_cannot_be_written_stops_no_build(
    run: Run, build_options: Options, own_cache: Path
) -> None:
    own_cache.write_text("a file where the folder should be")
    result = build_engines(run, [0.5], build_options())[0]
    assert any("was not kept for later builds" in told for told in result.manifest.warnings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimization_level", 5),
        ("aux_streams", 0),
        ("hardware_compatibility", "ampere+"),
        ("version_compatible", True),
        ("timing_cache", True),
    ],
)
def test_a_setting_that_rtx_would_ignore_is_refused(
    run: Run, build_options: Options, name: str, value: object
) -> None:
    with pytest.raises(SlsError, match=rf"build\.{name}: .*backend tensorrt_rtx"):
        build_engines(run, [0.5], build_options(**{name: value}))
    assert files(run) == []


def test_too_little_memory_is_said_and_leaves_nothing(run: Run, build_options: Options) -> None:
    options = build_options().model_copy(update={"memory": 60})
    with pytest.raises(SlsError, match=r"took more than 60 MiB and was stopped.*build\.memory"):
        build_engines(run, [0.5], options)
    assert files(run) == []


def test_the_manifest_holds_what_the_builder_was_told(run: Run, build_options: Options) -> None:
    manifest = build_engines(run, [0.5], build_options(workspace_mib=2048))[0].manifest
    assert manifest.options == BuildOptions(sparse=True, workspace_mib=2048)
    assert manifest.device is None


def test_a_layer_of_zeros_is_refused_before_the_builder_sees_it(
    run: Run, build_options: Options, make_network: Maker, record_export: Recorder
) -> None:
    path = run.folder("export", 0.5) / "model.fp16.onnx"
    model = make_network(path)
    weight = model.graph.initializer[1]
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, path)
    record_export(run)
    with pytest.raises(SlsError, match=r"all weights of layer 'network\.1\.weight' are zero"):
        build_engines(run, [0.5], build_options())


def test_what_is_asked_for_twice_is_built_once(run: Run, build_options: Options) -> None:
    options = build_options(architectures=("sm86+sm80", "sm80+sm86"), precisions=("fp16", "fp16"))
    results = build_engines(run, [0.5, 0.5], options)
    assert [result.plan.stem for result in results] == ["sm80+sm86-fp16"]
    assert verified_manifest(results[0].plan) == results[0].manifest


def test_what_a_killed_build_left_is_removed(run: Run, build_options: Options) -> None:
    folder = run.folder("engines", 0.5)
    folder.mkdir(parents=True)
    (folder / ".sm86-fp16.plan.ab12").write_bytes(b"half an engine")
    build_engines(run, [0.5], build_options())
    assert files(run) == ["sm86-fp16.json", "sm86-fp16.plan"]
