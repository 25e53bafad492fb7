from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.engine.cache import BuiltEngine, EngineCache
from sls_deploy.engine.request import BuildAnswer, Tensor
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file

MIB = 2**20


@pytest.fixture
def built(tmp_path: Path) -> BuiltEngine:
    plan = tmp_path / "some.plan"
    plan.write_bytes(os.urandom(MIB))
    answer = BuildAnswer(
        warnings=("a",), inputs=(Tensor("input", "FLOAT", (1, 3, -1, -1)),), peak_mib=9
    )
    return BuiltEngine(plan, hash_file(plan), answer, 1.5)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines", 3)


def test_gives_back_what_was_kept(cache: EngineCache, built: BuiltEngine) -> None:
    cache.keep("a" * 64, built)
    found = cache.find("a" * 64)
    assert found is not None
    assert found.plan.read_bytes() == built.plan.read_bytes()
    assert replace(found, plan=built.plan) == built


def test_knows_nothing_of_other_inputs(cache: EngineCache, built: BuiltEngine) -> None:
    assert cache.find("a" * 64) is None
    cache.keep("a" * 64, built)
    assert cache.find("b" * 64) is None


@pytest.mark.parametrize("file", ["engine.plan", "answer.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_engine_is_not_given_but_replaced(
    cache: EngineCache, built: BuiltEngine, file: str, damage: str
) -> None:
    cache.keep("a" * 64, built)
    path = cache.folder / ("a" * 64) / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:50] if damage == "cut" else b"x" + content[1:])
    assert cache.find("a" * 64) is None
    cache.keep("a" * 64, built)
    assert cache.find("a" * 64) is not None


def test_the_least_used_go_first(cache: EngineCache, built: BuiltEngine) -> None:
    for age, key in enumerate("ab"):
        cache.keep(key * 64, built)
        os.utime(cache.folder / (key * 64), (1000 + age, 1000 + age))
    assert cache.find("a" * 64) is not None
    cache.keep("c" * 64, built)
    assert [cache.find(key * 64) is not None for key in "abc"] == [True, False, True]


def test_what_is_larger_than_the_cache_is_not_kept(cache: EngineCache, built: BuiltEngine) -> None:
    replace(cache, limit_mib=0).keep("a" * 64, built)
    assert cache.find("a" * 64) is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, built: BuiltEngine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlsError, match="cannot be written"):
        EngineCache(tmp_path / "file" / "engines", 3).keep("a" * 64, built)
