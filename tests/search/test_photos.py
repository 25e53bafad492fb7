from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.config import DataConfig
from sls_deploy.data.degradation import Bicubic, Frames
from sls_deploy.data.motion_blur import MotionBlur
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.search.photos import load_photos


def description(scale: int = 1, **fields: int) -> Description:
    return Description("net", {}, scale, 1.0, least_side=20, multiple=8, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "kind"), [(1, MotionBlur), (2, Bicubic)])
def test_the_network_tells_the_degradation(photos: Path, scale: int, kind: type) -> None:
    training, measured = load_photos(DataConfig(photos=photos), description(scale), 24)
    assert (len(training), len(measured)) == (2, 1)
    assert isinstance(training.degradation, kind)
    assert training.scale == scale
    assert training.min_side == 24 * scale


def test_a_network_of_several_frames_gets_them(photos: Path) -> None:
    training, _ = load_photos(DataConfig(photos=photos), description(frames=3), 24)
    assert isinstance(training.degradation, Frames)
    assert training.pair(0)[0].shape[2] == 9


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (16, "--patch: 16 is below what net takes. Give 24 or more."),
        (44, "--patch: 44 is no multiple of 8, as net needs. Give 48."),
    ],
)
def test_a_patch_that_the_network_does_not_take_is_refused(
    photos: Path, patch: int, message: str
) -> None:
    with pytest.raises(SlsError) as caught:
        load_photos(DataConfig(photos=photos), description(), patch)
    assert str(caught.value) == message


def test_no_photographs_named_are_refused() -> None:
    with pytest.raises(SlsError, match="--data: no photographs were named"):
        load_photos(DataConfig(), description(), 24)
