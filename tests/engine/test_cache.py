from __future__ import annotations

import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.engine.cache import BuiltEngine, EngineCache
from sls_deploy.engine.request import BuildAnswer, Tensor
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file

MIB = 2**20


def holds(cache: EngineCache, key: str) -> bool:
    return cache.take(key, cache.folder.parent / "copy.plan") is not None


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
    copy = cache.folder.parent / "copy.plan"
    assert cache.take("a" * 64, copy) == replace(built, plan=copy)
    assert copy.read_bytes() == built.plan.read_bytes()


def test_knows_nothing_of_other_inputs(cache: EngineCache, built: BuiltEngine) -> None:
    assert not holds(cache, "a" * 64)
    cache.keep("a" * 64, built)
    assert not holds(cache, "b" * 64)


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
    assert not holds(cache, "a" * 64)
    cache.keep("a" * 64, built)
    assert holds(cache, "a" * 64)


def test_the_least_used_go_first(cache: EngineCache, built: BuiltEngine) -> None:
    for age, key in enumerate("ab"):
        cache.keep(key * 64, built)
        os.utime(cache.folder / (key * 64), (1000 + age, 1000 + age))
    assert holds(cache, "a" * 64)
    cache.keep("c" * 64, built)
    assert [holds(cache, key * 64) for key in "abc"] == [True, False, True]


def test_what_is_larger_than_the_cache_is_not_kept(cache: EngineCache, built: BuiltEngine) -> None:
    replace(cache, limit_mib=0).keep("a" * 64, built)
    assert not holds(cache, "a" * 64)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, built: BuiltEngine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlsError, match="cannot be written"):
        EngineCache(tmp_path / "file" / "engines", 3).keep("a" * 64, built)


def test_a_copy_that_cannot_be_written_is_said(cache: EngineCache, built: BuiltEngine) -> None:
    cache.keep("a" * 64, built)
    with pytest.raises(SlsError, match="cannot be written"):
        cache.take("a" * 64, built.plan / "below_a_file")


def test_copies_are_whole_while_others_make_room(cache: EngineCache, built: BuiltEngine) -> None:
    stop = threading.Event()

    def keep_others() -> None:
        for number in itertools.count():
            cache.keep(f"{number:064}", built)
            if stop.wait(0.02):
                return

    thread = threading.Thread(target=keep_others)
    thread.start()
    copy = cache.folder.parent / "copy.plan"
    hashes = set()
    for _ in range(8):
        cache.keep("a" * 64, built)
        for _ in range(3):
            if cache.take("a" * 64, copy):
                hashes.add(hash_file(copy))
    stop.set()
    thread.join()
    assert hashes == {built.plan_sha256}
