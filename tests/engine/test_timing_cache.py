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
