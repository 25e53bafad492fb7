from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sls_deploy.data.images import read_image
from sls_deploy.data.samples import (
    TRAIN,
    VALIDATION,
    copy_samples,
    export_samples,
    sample_photos,
)
from sls_deploy.errors import SlsError


def test_the_photographs_are_there() -> None:
    photos = sample_photos()
    assert list(photos) == [Path(name).stem for name in (*TRAIN, *VALIDATION)]
    for image in photos.values():
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert min(image.shape[:2]) >= 300


def test_nothing_is_validated_on_what_was_searched_on() -> None:
    assert not set(TRAIN) & set(VALIDATION)


def test_an_exported_photograph_is_the_same(tmp_path: Path) -> None:
    paths = export_samples(tmp_path / "new", ["rocket.jpg", "chelsea"])
    assert [path.name for path in paths] == ["rocket.png", "chelsea.png"]
    np.testing.assert_array_equal(read_image(paths[1]), sample_photos()["chelsea"])


def test_copies_read_as_the_exported_photographs(tmp_path: Path) -> None:
    copy_samples(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == sample_photos().keys()
    for name, photo in sample_photos().items():
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), photo)


def test_an_unknown_name_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"unicorn: no such sample\. There are astronaut, "):
        export_samples(tmp_path / "new", ["chelsea", "unicorn"])
    assert list(tmp_path.iterdir()) == []


def test_no_downloader_is_loaded() -> None:
    code = (
        "import sys; from sls_deploy.data.samples import sample_photos; sample_photos();"
        "sys.exit(any(name in sys.modules for name in ('skimage', 'pooch', 'requests')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
