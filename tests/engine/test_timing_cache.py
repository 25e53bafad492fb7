"""With the timing cache of TensorRT for RTX, which keeps nothing but has the same calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sls_deploy.engine.device import Device
from sls_deploy.engine.timing_cache import keep_timing_cache, timing_cache_file, use_timing_cache
from sls_deploy.engine.vendor_log import VendorLog

pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")


@pytest.fixture
def config() -> Any:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(VendorLog(trt).logger)
    return builder.create_builder_config()


def device(name: str = "NVIDIA A10", driver: str = "550.54.15") -> Device:
    return Device(name, "sm86", driver, "12.4", 23028, None, None, None, None)


def test_gpus_drivers_and_versions_have_files_of_their_own(tmp_path: Path) -> None:
    files = {
        timing_cache_file(tmp_path, device(), "10.13.0"),
        timing_cache_file(tmp_path, device(name="NVIDIA A40"), "10.13.0"),
        timing_cache_file(tmp_path, device(driver="560.1"), "10.13.0"),
        timing_cache_file(tmp_path, device(), "11.0.0"),
    }
    assert len(files) == 4
    assert tmp_path / "timing" / "nvidia-a10-550.54.15-10.13.0.cache" in files


def test_is_written_and_read_again(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "timing" / "a.cache"
    for _ in range(2):
        cache = use_timing_cache(config, path)
        assert config.get_timing_cache() is not None
        keep_timing_cache(config, cache, path)
        assert path.is_file()


def test_a_spoilt_file_is_not_used(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.cache"
    path.write_bytes(b"junk" * 100)
    assert use_timing_cache(config, path) is not None
    assert config.get_timing_cache() is not None


class Times:
    """A timing cache that really keeps something: lines of text."""

    def __init__(self, content: bytes) -> None:
        self.lines = set(content.splitlines())

    def combine(self, other: Times, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.lines |= other.lines
        return True

    def serialize(self) -> bytes:
        return b"\n".join(sorted(self.lines))


class Config:
    def create_timing_cache(self, content: bytes) -> Times:
        return Times(content)

    def set_timing_cache(self, cache: Times, ignore_mismatch: bool) -> bool:
        return not ignore_mismatch


def test_what_two_builds_measured_at_once_is_all_kept(tmp_path: Path) -> None:
    path, config = tmp_path / "a.cache", Config()
    path.write_bytes(b"before")
    first, second = (use_timing_cache(config, path) for _ in range(2))  # type: ignore[arg-type]
    for cache, line in ((first, b"one"), (second, b"two")):
        cache.lines.add(line)  # type: ignore[union-attr]
        keep_timing_cache(config, cache, path)  # type: ignore[arg-type]
    assert path.read_bytes().splitlines() == [b"before", b"one", b"two"]
