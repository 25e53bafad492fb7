from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sls_deploy.engine.manifest import (
    may_bring_code,
    read_manifest,
    remember_built,
    verified_manifest,
    write_manifest,
)
from sls_deploy.engine.stage import EngineResult
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file
from sls_deploy.run import Run


@pytest.fixture
def engine(built: tuple[Run, dict[str, EngineResult]], tmp_path: Path) -> Path:
    """A copy of an engine with its manifest."""
    result = built[1]["fp16"]
    shutil.copy(result.manifest_path, tmp_path)
    return Path(shutil.copy(result.plan, tmp_path))


def change(engine: Path, **values: Any) -> Path:
    path = engine.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


def test_a_manifest_is_read_as_it_was_written(engine: Path) -> None:
    manifest = read_manifest(engine.with_suffix(".json"))
    assert read_manifest(write_manifest(engine.with_name("copy.json"), manifest)) == manifest


def test_a_manifest_tells_where_an_engine_comes_from(
    built: tuple[Run, dict[str, EngineResult]],
) -> None:
    run, results = built
    manifest = results["fp32"].manifest
    assert manifest.plan_sha256 == hash_file(results["fp32"].plan)
    assert manifest.onnx_sha256 == hash_file(run.folder("export", 0.5) / "model.fp32.onnx")
    assert (manifest.backend, manifest.architecture) == ("tensorrt_rtx", "sm86")
    assert [(t.name, t.dtype, t.shape) for t in (*manifest.inputs, *manifest.outputs)] == [
        ("input", "FLOAT", (-1, 3, -1, -1)),
        ("output", "FLOAT", (-1, 12, -1, -1)),
    ]
    assert 20 < manifest.peak_mib < 2000
    assert manifest.seconds > 0


def test_an_engine_that_matches_its_manifest_is_accepted(engine: Path) -> None:
    assert verified_manifest(engine).precision == "fp16"


def test_an_engine_that_was_changed_is_refused(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[1000] ^= 1
    engine.write_bytes(content)
    with pytest.raises(SlsError, match=r"is not the engine that sm86-fp16\.json describes"):
        verified_manifest(engine)


def test_an_engine_without_a_manifest_is_refused(engine: Path) -> None:
    engine.with_suffix(".json").unlink()
    with pytest.raises(SlsError, match="manifest cannot be read"):
        verified_manifest(engine)


def test_a_missing_engine_is_named(engine: Path) -> None:
    engine.unlink()
    with pytest.raises(SlsError, match=r"sm86-fp16\.plan: no such engine"):
        verified_manifest(engine)


@pytest.mark.parametrize("field", ["plan", "onnx"])
@pytest.mark.parametrize("name", ["../secret.plan", "/etc/passwd", "a/b.plan", "..", ""])
def test_a_file_outside_the_folder_is_refused(engine: Path, field: str, name: str) -> None:
    with pytest.raises(SlsError, match="outside its folder"):
        read_manifest(change(engine, **{field: name}))


@pytest.mark.parametrize(
    "values", [{"inputs": []}, {"outputs": []}, {"min_shape": [1]}, {"max_shape": []}]
)
def test_an_engine_of_another_form_is_refused(engine: Path, values: dict[str, Any]) -> None:
    with pytest.raises(SlsError, match="one picture in and one out"):
        read_manifest(change(engine, **values))


def test_an_engine_brings_code_only_if_it_was_built_here(engine: Path) -> None:
    plain = verified_manifest(engine)
    remember_built(plain)
    assert not may_bring_code(plain, "x.plan")
    bringing = replace(plain, options=replace(plain.options, version_compatible=True))
    with pytest.raises(SlsError, match=r"x\.plan: may bring code .* was not built here"):
        may_bring_code(bringing, "x.plan")
    remember_built(bringing)
    assert may_bring_code(bringing, "x.plan")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"plan": "x.plan"}', "\udcff"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sm86-fp16.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SlsError, match="is not an engine's manifest"):
        read_manifest(path)


@pytest.mark.parametrize(
    "values",
    [{"budget": "half"}, {"backend": "other"}, {"architecture": "sm12"}, {"surprise": 1}],
    ids=lambda values: next(iter(values)),
)
def test_a_wrong_field_is_named(engine: Path, values: dict[str, Any]) -> None:
    path = change(engine, **values)
    with pytest.raises(SlsError, match=rf"manifest of this version \({next(iter(values))}"):
        read_manifest(path)
