from __future__ import annotations

import os
from pathlib import Path

import pytest

from sls_deploy.errors import SlsError
from sls_deploy.pictures.still import open_still
from sls_deploy.restore.sources import find_jobs


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, a video, hidden files and others, seen from its parent."""
    folder = tmp_path / "photos"
    for name in (
        "a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tif", "sub/e.mp4", "notes.txt",
        ".hidden.png", ".git/f.png", "sub/.cache/g.png",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    return folder


def targets(*inputs: str, out: str = "out", form: str = "keep", listed: str = "") -> list[str]:
    jobs = find_jobs(inputs, Path(out), form, listed.splitlines(keepends=True))
    return [str(job.target) for job in jobs]


def test_a_folder_keeps_its_structure_without_hidden_files(photos: Path) -> None:
    jobs = find_jobs(["photos"], Path("out"), "keep", [])
    assert [(str(job.source), str(job.target), job.kind) for job in jobs] == [
        ("photos/a.png", "out/a.png", "picture"),
        ("photos/b.JPG", "out/b.JPG", "picture"),
        ("photos/sub/c.webp", "out/sub/c.webp", "picture"),
        ("photos/sub/deep/d.tif", "out/sub/deep/d.tif", "picture"),
        ("photos/sub/e.mp4", "out/sub/e.mp4", "video"),
    ]


def test_a_file_goes_into_the_output_folder_itself(photos: Path) -> None:
    assert targets("photos/sub/deep/d.tif", "photos/a.png") == ["out/d.tif", "out/a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["out/a.png"]),
        ("photos/*", ["out/a.png", "out/b.JPG"]),
        ("photos/**/*.tif", ["out/sub/deep/d.tif"]),
        ("p*/sub/?.webp", ["out/photos/sub/c.webp"]),
        ("photos/[ab].*", ["out/a.png", "out/b.JPG"]),
        ("photos/.g*/*.png", ["out/.git/f.png"]),
        ("photos/g*/*.png", []),
        ("photos/.git/*.png", ["out/f.png"]),
    ],
)
def test_a_pattern_keeps_the_structure_below_its_fixed_part(
    photos: Path, pattern: str, expected: list[str]
) -> None:
    if expected:
        assert targets(pattern) == expected
        assert targets(str(photos.parent / pattern)) == expected
    else:
        with pytest.raises(SlsError, match="matches no pictures or video"):
            targets(pattern)


def test_a_name_with_brackets_that_exists_is_no_pattern(photos: Path) -> None:
    Path("photos/a[1]*.png").touch()
    assert targets("photos/a[1]*.png") == ["out/a[1]*.png"]


def test_a_list_names_files_and_folders_literally(photos: Path) -> None:
    Path("photos/ sp*ace.png").touch()
    listed = "photos/ sp*ace.png\n\n  \nphotos/sub/deep\r\nphotos/a.png"
    assert targets("-", listed=listed) == [
        "out/photos/ sp*ace.png", "out/photos/sub/deep/d.tif", "out/photos/a.png",
    ]  # fmt: skip


def test_relative_paths_of_a_list_keep_their_folders(photos: Path) -> None:
    Path("photos/sub/a.png").touch()
    listed = "./photos/a.png\nphotos/sub/a.png\nphotos\n."
    assert targets("-", listed=listed)[:2] == ["out/photos/a.png", "out/photos/sub/a.png"]
    assert len(targets("-", listed=listed)) == 6


def test_absolute_paths_of_a_list_and_those_that_lead_upwards_are_names_alone(photos: Path) -> None:
    listed = f"{photos}/sub/c.webp\nphotos/sub/../a.png\n{photos}/sub/deep"
    assert targets("-", listed=listed) == ["out/c.webp", "out/a.png", "out/d.tif"]


def test_paths_of_a_list_that_lie_in_the_output_folder_are_left_out(photos: Path) -> None:
    (photos / "out/deep").mkdir(parents=True)
    (photos / "out/a.png").touch()
    listed = "photos/a.png\nphotos/out/a.png\nphotos/out/deep\nphotos/out\nphotos/out/gone.png"
    assert targets("-", out="photos/out", listed=listed) == ["photos/out/photos/a.png"]
    with pytest.raises(SlsError, match=r"standard input: names no pictures or video.* left out"):
        targets("-", out="photos/out", listed="photos/out/a.png")


def test_a_listed_path_that_leads_nowhere_is_a_job_that_fails(photos: Path) -> None:
    Path("loop.png").symlink_to("loop.png")
    listed = f"gone/b.png\nphotos/a.png\nloop.png\n{'x' * 300}.png\nphotos/a.png/b.mp4"
    jobs = find_jobs(["-"], Path("out"), "keep", listed.splitlines())
    assert len(jobs) == 5
    for job in (jobs[0], jobs[2], jobs[3]):
        with pytest.raises(SlsError, match=r"no such file|cannot be read \("):
            open_still(job.source, 1)


def test_a_listed_folder_without_pictures_does_not_end_it(photos: Path) -> None:
    Path("empty").mkdir()
    assert targets("-", listed="empty\nphotos/a.png") == ["out/photos/a.png"]


def test_a_list_that_is_separated_by_zero_bytes_is_refused(photos: Path) -> None:
    with pytest.raises(SlsError, match=r"standard input: holds zero bytes.*without -print0"):
        targets("-", listed="photos/a.png\0photos/b.JPG\0")


@pytest.mark.parametrize("listed", ["", "\n \n"])
def test_an_empty_list_is_refused(photos: Path, listed: str) -> None:
    with pytest.raises(SlsError, match=r"standard input: holds no paths\. Give one path a line"):
        targets("-", listed=listed)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("png", ["a.png", "b.png", "c.png", "d.png", "e.mp4"]),
        ("jpeg", ["a.jpg", "b.JPG", "c.jpg", "d.jpg", "e.mp4"]),
        ("webp", ["a.webp", "b.webp", "c.webp", "d.webp", "e.mp4"]),
        ("tiff", ["a.tif", "b.tif", "c.tif", "d.tif", "e.mp4"]),
    ],
)
def test_a_format_gives_pictures_its_suffix(photos: Path, form: str, expected: list[str]) -> None:
    assert [Path(target).name for target in targets("photos", form=form)] == expected


@pytest.mark.parametrize(
    ("form", "expected"), [("keep", "x.dat.png"), ("jpeg", "x.dat.jpg"), ("tiff", "x.dat.tif")]
)
def test_a_named_file_of_any_suffix_is_tried_as_a_picture(
    photos: Path, form: str, expected: str
) -> None:
    Path("x.dat").touch()
    assert targets("x.dat", form=form) == [f"out/{expected}"]


def test_a_container_that_cannot_hold_the_codec_becomes_another(photos: Path) -> None:
    Path("v.webm").touch()
    assert targets("v.webm") == ["out/v.mkv"]


def test_the_same_file_twice_is_one_job(photos: Path) -> None:
    assert targets("photos/a.png", "photos/*.png", str(photos / "a.png")) == ["out/a.png"]


@pytest.mark.parametrize(
    ("names", "form", "expected"),
    [
        ("a.jpg a.png", "png", "a.jpg.png a.png"),
        ("a.jpg a.png", "keep", "a.jpg a.png"),
        ("a.tif a.JPG a.webp", "png", "a.JPG.png a.tif.png a.webp.png"),
        ("a.jpeg a.jpg", "jpeg", "a.jpeg a.jpg"),
        ("a.mkv a.webm", "keep", "a.mkv a.webm.mkv"),
        ("a.jpg b.png", "png", "a.png b.png"),
    ],
)
def test_an_old_suffix_stays_where_two_results_would_have_one_name(
    tmp_path: Path, names: str, form: str, expected: str
) -> None:
    for name in names.split():
        (tmp_path / name).touch()
    assert targets(str(tmp_path), form=form) == [f"out/{name}" for name in expected.split()]


def test_a_file_that_is_found_twice_keeps_its_short_name(photos: Path) -> None:
    Path("photos/link").symlink_to("sub")
    assert targets("photos/sub/c.webp", "photos/link/c.webp", form="png") == ["out/c.png"]


def test_two_inputs_for_one_output_are_both_named(photos: Path) -> None:
    Path("photos/sub/a.png").touch()
    with pytest.raises(SlsError) as caught:
        targets("photos/a.png", "photos/sub/a.png")
    assert str(caught.value).startswith(
        "out/a.png: would be written from two inputs, photos/a.png and photos/sub/a.png. Name the"
    )


def test_what_lies_in_the_output_folder_is_no_input(photos: Path) -> None:
    (photos / "out").mkdir()
    (photos / "out/a.png").touch()
    Path("link.png").symlink_to(photos / "out/a.png")
    assert "photos/out/out/a.png" not in targets("photos", "photos/**/*.png", out="photos/out")
    for named in ("photos/out/a.png", "photos/out", "link.png"):
        with pytest.raises(SlsError, match="lies in the folder for results, photos/out"):
            targets(named, out="photos/out")


@pytest.mark.parametrize("out", ["photos", ".", "photos/../photos"])
def test_no_input_is_written_over(photos: Path, out: str) -> None:
    with pytest.raises(SlsError, match=r"lies in the folder for results.*--out"):
        targets("photos/a.png", out=out)


def test_a_target_that_links_to_its_source_is_refused(photos: Path) -> None:
    Path("out").mkdir()
    Path("out/a.png").symlink_to(photos / "a.png")
    with pytest.raises(SlsError, match="would be written over by its own result"):
        targets("photos/a.png")


@pytest.mark.parametrize("link", ["..", ".", "../sub"])
def test_loops_of_links_do_no_harm(photos: Path, link: str) -> None:
    Path("photos/sub/loop").symlink_to(link, target_is_directory=True)
    Path("photos/sub/again").symlink_to("again")
    assert len(targets("photos")) == 5
    assert len(targets("photos/**/*.*")) == 5


@pytest.mark.parametrize("text", ["photos", "photos/**/*.png"])
def test_a_link_to_nothing_in_a_folder_is_a_job_that_fails(photos: Path, text: str) -> None:
    Path("photos/sub/dangling.png").symlink_to("gone")
    Path("photos/sub/dangling.txt").symlink_to("gone")
    Path("photos/folder.png").mkdir()
    os.mkfifo("photos/pipe.png")
    jobs = find_jobs([text], Path("out"), "keep")
    (job,) = (job for job in jobs if job.source.stem == "dangling")
    with pytest.raises(SlsError, match=r"dangling\.png: no such file"):
        open_still(job.source, 1)
    assert not {"out/folder.png", "out/pipe.png"} & set(targets(text))


def test_a_link_to_a_file_is_an_input(photos: Path) -> None:
    Path("linked.png").symlink_to("photos/a.png")
    assert targets("linked.png") == ["out/linked.png"]


def test_no_inputs_are_refused(photos: Path) -> None:
    with pytest.raises(SlsError, match="no inputs"):
        targets()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing.png", "nothing.png: no such file or folder"),
        ("", "an input without a name"),
        ("dangling.png", "no such file"),
        ("photos/*.bmp", "matches no pictures or video. Their names end in .png"),
        ("nowhere/**/*.png", "matches no pictures"),
        ("photos/**x/*.png", "cannot be searched|matches no"),
        ("x" * 300, r"x: cannot be read \(File name too long\)"),
        ("photos/a.png/b.png", "no such file"),
        ("empty", "empty: holds no pictures or video. Their names end in .png"),
    ],
)
def test_an_input_that_gives_nothing_is_named(photos: Path, text: str, said: str) -> None:
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    Path("dangling.png").symlink_to("gone")
    with pytest.raises(SlsError, match=said):
        targets(text)


def test_a_folder_that_cannot_be_read_is_named(photos: Path) -> None:
    (photos / "sub").chmod(0)
    try:
        if os.access(photos / "sub", os.R_OK):
            pytest.skip("root reads every folder")
        with pytest.raises(SlsError, match=r"photos/sub: cannot be read \(Permission denied\)"):
            targets("photos")
    finally:
        (photos / "sub").chmod(0o755)
