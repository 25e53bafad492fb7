from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sls_deploy.config import DataConfig
from sls_deploy.data.bicubic import Picture, downscale
from sls_deploy.data.degradation import Bicubic, Degradation, Frames, Pairs, choose_degradation
from sls_deploy.data.given import Given
from sls_deploy.data.images import list_images, read_image, write_image
from sls_deploy.data.motion_blur import MotionBlur
from sls_deploy.errors import SlsError

Write = Callable[..., list[Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes noise of 24x30 pixels, another one into each file."""

    def write(*names: str, height: int = 24, width: int = 30) -> list[Path]:
        random = np.random.default_rng(sum(map(len, names)))
        return [
            write_image(tmp_path / name, random.integers(0, 256, (height, width, 3), np.uint8))
            for name in names
        ]

    return write


def chosen(
    folder: Path, scale: int = 1, frames: int = 1, **settings: object
) -> tuple[Degradation, list[str]]:
    config = DataConfig.model_validate(settings)
    degradation, paths = choose_degradation(config, folder, scale, frames)
    return degradation, [path.relative_to(folder).as_posix() for path in paths]


def test_bicubic_shrinks_the_cut_truth(write: Write) -> None:
    path = write("a.png", height=25, width=31)[0]
    degraded, truth = Bicubic(3).pair(path)
    np.testing.assert_array_equal(truth, read_image(path)[:24, :30])
    np.testing.assert_array_equal(degraded, downscale(truth, 3))
    assert Bicubic(3).files(path) == (path,)


def test_notes_tell_how_inputs_come_about(write: Write, tmp_path: Path) -> None:
    write("sharp/a.png", "blur/a.png")
    notes = [
        chosen(tmp_path, scale, frames, degradation=kind, **settings)[0].note
        for scale, frames, kind, settings in (
            (1, 1, "pairs", {}),
            (2, 1, "bicubic", {}),
            (1, 1, "bicubic", {}),
            (1, 1, "motion-blur", {"blur_length": 8.5}),
            (2, 1, "motion-blur", {"blur_varying": False, "blur_noise": 0}),
            (2, 3, "bicubic", {}),
        )
    ]
    bicubic = "Input made by MATLAB's bicubic from the truth, cut to a multiple of the scale"
    assert notes == [
        "Input read from the degraded file beside the truth",
        bicubic,
        "Input is the truth itself",
        "Input made from the truth by motion blur (shift and roll of up to 8.5 pixels, "
        "shake 1.0, blended in light, noise of 1.0 levels at middle grey, seed 0)",
        "Input made from the truth by motion blur (shift of up to 20.0 pixels, shake 1.0, "
        "blended in light, noise of 0.0 levels at middle grey, seed 0), then shrunk by MATLAB's "
        "bicubic",
        f"{bicubic}; 3 frames, those beside the middle one from the truth shifted by up to 4 "
        "pixels from each to the next, seed 0",
    ]


def test_a_pair_is_read_from_both_files(write: Write, tmp_path: Path) -> None:
    sharp, blur = write("sharp/a.png", "blur/a.png")
    degradation, names = chosen(tmp_path)
    assert names == ["sharp/a.png"]
    degraded, truth = degradation.pair(sharp)
    np.testing.assert_array_equal(degraded, read_image(blur))
    np.testing.assert_array_equal(truth, read_image(sharp))
    assert degradation.files(sharp) == (sharp, blur)


@pytest.mark.parametrize(
    ("sharp", "blur"),
    [
        ("sharp/a.png", "blur/a.png"),
        ("target/a.png", "input/a.png"),
        ("gt/a.png", "lq/a.png"),
        ("gt/a.png", "blur/a.png"),
        ("GT/a.png", "LQ/a.png"),
        ("sharp/a.png", "blur/a.bmp"),
        ("train/scene/sharp/1.png", "train/scene/blur/1.png"),
        ("sharp/scene/1.png", "blur/scene/1.png"),
        ("input/scene/sharp/1.png", "input/scene/blur/1.png"),
    ],
)
def test_pairs_are_found(write: Write, tmp_path: Path, sharp: str, blur: str) -> None:
    paths = tuple(write(sharp, blur))
    degradation, names = chosen(tmp_path)
    assert names == [sharp]
    assert degradation.files(paths[0]) == paths


def test_the_benchmark_of_gopro_is_found(shared_data: Path) -> None:
    degradation, names = chosen(shared_data / "bench" / "GoPro")
    assert names == ["sharp/00.png", "sharp/01.png", "sharp/02.png"]
    degraded, truth = degradation.pair(shared_data / "bench" / "GoPro" / names[0])
    assert degraded.shape == truth.shape
    assert (degraded != truth).any()


def test_files_of_the_same_name_in_other_scenes_are_no_pair(write: Write, tmp_path: Path) -> None:
    write("1/sharp/a.png", "1/blur/a.png", "2/sharp/a.png", "3/blur/a.png")
    degradation, names = chosen(tmp_path)
    assert names == ["1/sharp/a.png", "2/sharp/a.png", "3/blur/a.png"]
    with pytest.raises(SlsError, match=r"2/sharp/a\.png: has no degraded partner\. Add it"):
        degradation.files(tmp_path / names[1])
    with pytest.raises(SlsError, match=r"3/blur/a\.png: has no sharp partner\. Add it"):
        degradation.pair(tmp_path / names[2])


def test_files_beside_the_folders_of_pairs_are_left_out(write: Write, tmp_path: Path) -> None:
    # GoPro also has its inputs averaged without gamma.
    write("sharp/a.png", "blur/a.png", "blur_gamma/a.png")
    assert chosen(tmp_path)[1] == ["sharp/a.png"]


def test_two_inputs_of_one_truth_are_refused(write: Write, tmp_path: Path) -> None:
    sharp, *_ = write("sharp/a.png", "blur/a.png", "lq/a.png")
    message = r"has several degraded partners, .*blur/a\.png and .*lq/a\.png\. Leave one"
    with pytest.raises(SlsError, match=message):
        chosen(tmp_path)[0].pair(sharp)


def test_partners_of_other_sizes_are_refused(write: Write, tmp_path: Path) -> None:
    sharp, blur = *write("sharp/a.png"), *write("blur/a.png", width=31)
    message = f"{blur}: is 31x24, its truth {sharp} 30x24. At scale 1 it must be 30x24."
    with pytest.raises(SlsError) as caught:
        chosen(tmp_path)[0].pair(sharp)
    assert str(caught.value) == message


def test_pairs_at_a_scale_have_truth_as_many_times_as_large(write: Write, tmp_path: Path) -> None:
    write("gt/a.png", height=33, width=42)
    write("lq/a.png", height=8, width=10)
    degraded, truth = chosen(tmp_path, scale=4)[0].pair(tmp_path / "gt" / "a.png")
    assert (degraded.shape, truth.shape) == ((8, 10, 3), (32, 40, 3))
    with pytest.raises(SlsError, match=r"lq/a\.png: is 10x8.*42x33. At scale 3 it must be 14x11"):
        chosen(tmp_path, scale=3)[0].pair(tmp_path / "gt" / "a.png")


def test_a_damaged_input_is_named(write: Write, tmp_path: Path) -> None:
    sharp, blur = write("sharp/a.png", "blur/a.png")
    blur.write_bytes(b"nothing")
    with pytest.raises(SlsError, match=r"blur/a\.png: cannot be read as a picture"):
        chosen(tmp_path)[0].pair(sharp)


@pytest.mark.parametrize(("scale", "kind"), [(1, MotionBlur), (2, Bicubic)])
def test_without_pairs_the_scale_tells_the_degradation(
    write: Write, tmp_path: Path, scale: int, kind: type
) -> None:
    write("a.png", "b/c.png")
    degradation, names = chosen(tmp_path, scale)
    assert isinstance(degradation, kind)
    assert (degradation.scale, degradation.frames) == (scale, 1)
    assert names == ["a.png", "b/c.png"]


@pytest.mark.parametrize("name", ["sharp/a.png", "input/a.png"])
def test_truth_or_inputs_alone_are_photographs(write: Write, tmp_path: Path, name: str) -> None:
    write(name)
    degradation, names = chosen(tmp_path)
    assert isinstance(degradation, MotionBlur)
    assert names == [name]


def test_a_folder_within_a_pair_of_folders_holds_photographs(write: Write, tmp_path: Path) -> None:
    write("sharp/a.png", "blur/a.png")
    assert isinstance(chosen(tmp_path / "sharp")[0], MotionBlur)


@pytest.mark.parametrize(("kind", "made"), [("bicubic", Bicubic), ("motion-blur", MotionBlur)])
def test_a_degradation_asked_for_leaves_the_inputs_of_pairs_out(
    write: Write, tmp_path: Path, kind: str, made: type
) -> None:
    write("sharp/a.png", "blur/a.png", "sharp/b.png")
    degradation, names = chosen(tmp_path, scale=2, degradation=kind)
    assert isinstance(degradation, made)
    assert names == ["sharp/a.png", "sharp/b.png"]


def test_settings_reach_the_motion_blur(write: Write, tmp_path: Path) -> None:
    write("a.png")
    settings = {"blur_length": 7, "blur_varying": False, "blur_noise": 0}
    assert chosen(tmp_path, **settings)[0] == MotionBlur(1, 7, varying=False, noise=0)


def test_defaults_of_settings_and_motion_blur_agree(write: Write, tmp_path: Path) -> None:
    write("a.png")
    assert chosen(tmp_path)[0] == MotionBlur()


@pytest.mark.parametrize(
    "settings",
    [{"degradation": "fog"}, {"blur_length": 0}, {"blur_length": 200}, {"blur_noise": -1}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("names", "asked"),
    [(["a.png"], "pairs"), (["sharp/a.png"], "pairs"), (["sharp/a.png", "blur/b.png"], "auto")],
)
def test_no_pairs_where_there_should_be_some_are_refused(
    write: Write, tmp_path: Path, names: list[str], asked: str
) -> None:
    write(*names)
    with pytest.raises(SlsError, match=r"holds no pairs\. Put the truth below a folder sharp, "):
        chosen(tmp_path, degradation=asked)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="holds no pictures"):
        chosen(tmp_path)


def slope(height: int = 60, width: int = 60) -> Picture:
    """Red tells the column and green the row."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return np.dstack((4 * columns, 4 * rows, rows * 0))


@pytest.mark.parametrize("count", [3, 5])
def test_frames_lie_along_the_channels_with_the_truth_in_the_middle(
    write: Write, tmp_path: Path, count: int
) -> None:
    path = write("a.png")[0]
    for degradation in (Bicubic(2), MotionBlur()):
        inputs, truth = Frames(degradation, count).pair(path)
        alone, truth_alone = degradation.pair(path)
        assert inputs.shape == (*alone.shape[:2], 3 * count)
        middle = 3 * (count // 2)
        np.testing.assert_array_equal(inputs[:, :, middle : middle + 3], alone)
        np.testing.assert_array_equal(truth, truth_alone)


def test_frames_move_by_a_few_whole_pixels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", slope())
    inputs = Frames(Bicubic(1), 7).pair(path)[0].reshape(60, 60, 7, 3)[30, 30, :, :2].astype(int)
    places = inputs[:, ::-1] / 4 - 30
    np.testing.assert_array_equal(places, np.round(places))
    assert places[3].tolist() == [0, 0]
    assert 0 < np.abs(np.diff(places, axis=0)).max() <= 4


def test_borders_of_moved_frames_are_repeated(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", slope())
    inputs = Frames(Bicubic(1), 9).pair(path)[0].reshape(60, 60, 9, 3)
    for number in range(9):
        right, down = (int(level) // 4 - 30 for level in inputs[30, 30, number, :2])
        columns = 4 * np.clip(np.arange(60) + right, 0, 59)
        rows = 4 * np.clip(np.arange(60) + down, 0, 59)
        np.testing.assert_array_equal(inputs[9, :, number, 0], columns)
        np.testing.assert_array_equal(inputs[:, 9, number, 1], rows)


def test_the_way_of_the_frames_follows_from_name_and_seed(write: Write) -> None:
    one, other = write("a.png", "b.png")
    write_image(other, read_image(one))
    first, _ = Frames(Bicubic(1), 3).pair(one)
    np.testing.assert_array_equal(first, Frames(Bicubic(1), 3).pair(one)[0])
    assert (first != Frames(Bicubic(1), 3).pair(other)[0]).any()
    assert (first != Frames(Bicubic(1), 3, seed=1).pair(one)[0]).any()


def test_every_frame_has_a_blur_of_its_own(tmp_path: Path) -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, 30:] = 255
    path = write_image(tmp_path / "a.png", image)
    inputs, _ = Frames(MotionBlur(varying=False, noise=0), 3).pair(path)
    profiles = np.diff(inputs[30].astype(int), axis=0).T[::3]  # a shift only moves these
    assert len({tuple(sorted(profile)) for profile in profiles.tolist()}) == 3


def test_several_frames_are_chosen(write: Write, tmp_path: Path) -> None:
    path = write("a.png")[0]
    degradation, names = chosen(tmp_path, frames=5)
    assert isinstance(degradation, Frames)
    assert (degradation.scale, degradation.frames, names) == (1, 5, ["a.png"])
    assert degradation.files(path) == (path,)


def test_frames_of_pairs_are_refused(write: Write, tmp_path: Path) -> None:
    write("sharp/a.png", "blur/a.png")
    message = r"data\.degradation: pairs hold one picture each, and this network takes 3 at once"
    with pytest.raises(SlsError, match=message):
        chosen(tmp_path, frames=3)
    with pytest.raises(SlsError, match=message):
        Frames(Pairs(tmp_path, list_images(tmp_path), 1), 3)
    assert chosen(tmp_path, frames=3, degradation="motion-blur")[1] == ["sharp/a.png"]


def test_pictures_may_be_inputs_themselves(write: Write, tmp_path: Path) -> None:
    write("sharp/a.png", "blur/a.png", "b.png")
    degradation, paths = choose_degradation(DataConfig(), tmp_path, 4, 1, "none")
    assert degradation == Given(4)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "b.png",
        "blur/a.png",
        "sharp/a.png",
    ]
    degraded, truth = degradation.pair(paths[0])
    assert truth is None
    np.testing.assert_array_equal(degraded, read_image(paths[0]))
    assert degradation.files(paths[0]) == (paths[0],)
    assert degradation.note == "Input is the picture itself, and there is no truth"


def test_several_frames_without_truth_are_one_picture(write: Write, tmp_path: Path) -> None:
    (path,) = write("a.png")
    degradation, _ = choose_degradation(DataConfig(), tmp_path, 2, 5, "none")
    assert (degradation.scale, degradation.frames) == (2, 5)
    assert degradation.note.endswith("; it is repeated for all 5 frames")
    frames, _ = degradation.pair(path)
    for number in range(5):
        np.testing.assert_array_equal(frames[:, :, 3 * number : 3 * number + 3], read_image(path))


@pytest.mark.parametrize(("kind", "made"), [("bicubic", Bicubic), ("motion-blur", MotionBlur)])
def test_a_kind_that_is_given_goes_before_that_of_the_settings(
    write: Write, tmp_path: Path, kind: str, made: type
) -> None:
    write("a.png")
    settings = DataConfig(degradation="pairs")
    assert isinstance(choose_degradation(settings, tmp_path, 2, 1, kind)[0], made)
