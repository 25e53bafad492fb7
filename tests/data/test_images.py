from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import image_size, list_images, read_image, write_image
from sls_deploy.errors import SlsError


@pytest.fixture
def picture() -> Picture:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "A.TIF", "a.ppm"])
def test_a_written_picture_reads_back(tmp_path: Path, picture: Picture, name: str) -> None:
    path = write_image(tmp_path / "new" / name, picture)
    np.testing.assert_array_equal(read_image(path), picture)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_stay_close(tmp_path: Path, name: str) -> None:
    smooth = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None] * 4, (60, 60, 3)).copy()
    back = read_image(write_image(tmp_path / name, smooth))
    assert np.abs(back.astype(int) - smooth).max() <= 6


def test_an_unknown_suffix_is_refused(tmp_path: Path, picture: Picture) -> None:
    with pytest.raises(SlsError, match=r"a\.txt: is not a name for a picture\. End it in"):
        write_image(tmp_path / "a.txt", picture)
    assert list(tmp_path.iterdir()) == []


def test_grey_is_replicated(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture[:, :, 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture[:, :, :1].repeat(3, 2))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped(tmp_path: Path, picture: Picture, alpha: int) -> None:
    rgba = np.dstack((picture, np.full(picture.shape[:2], alpha, np.uint8)))
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert (read_image(tmp_path / "a.png") == (10, 20, 30)).all()


@pytest.mark.parametrize("factor", [256, 257])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_give_their_upper_eight(
    tmp_path: Path, picture: Picture, factor: int, name: str
) -> None:
    grey = picture[:, :, 0]
    Image.fromarray(grey.astype(np.uint16) * factor).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name)[:, :, 0], grey)


def test_float_samples_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SlsError, match="floating-point samples"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(
    tmp_path: Path, picture: Picture, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.swapaxes(0, 1),
        6: np.rot90(picture, -1),
        7: np.rot90(picture, 2).swapaxes(0, 1),
        8: np.rot90(picture),
    }[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned)


def test_the_size_is_read_from_the_header_alone(tmp_path: Path, picture: Picture) -> None:
    path = write_image(tmp_path / "a.png", picture)
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (20, 30)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=re.escape(f"{tmp_path / 'no.png'}: no such file")):
        read_image(tmp_path / "no.png")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40])
def test_what_is_not_a_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(SlsError, match=r"a\.png: cannot be read as a picture \(.+\)$"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_a_file_cut_short_is_named(tmp_path: Path, picture: Picture, name: str) -> None:
    path = write_image(tmp_path / name, picture.repeat(4, 0).repeat(4, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlsError, match=rf"{re.escape(name)}: cannot be read as a picture"):
        read_image(path)


def test_every_damaged_byte_gives_a_picture_or_a_clear_error(
    tmp_path: Path, picture: Picture
) -> None:
    path = write_image(tmp_path / "a.png", picture)
    sound, generator = path.read_bytes(), np.random.default_rng(0)
    refused = []
    for _ in range(200):
        damaged = bytearray(sound)
        damaged[generator.integers(8, len(sound))] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert read_image(path).dtype == np.uint8
        except SlsError as error:
            refused.append(error.where)
    assert len(refused) > 100
    assert set(refused) == {str(path)}


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"\(Is a directory\)"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused_by_its_header(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "a.png", picture)
    for limit in (400, 100):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for read in (read_image, image_size):
            with pytest.raises(SlsError, match=r"a\.png: has more than 0 million pixels"):
                read(path)


def test_pictures_are_listed_below_the_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "c.txt", ".hidden.png", ".cache/d.png", "a/y.tiff"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    expected = [tmp_path / name for name in ("a/y.tiff", "a/z.JPG", "b.png")]
    assert list_images(tmp_path) == expected


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(SlsError, match=r"holds no pictures\. Pictures end in \.bmp"):
        list_images(tmp_path)


def test_an_absent_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no such folder"):
        list_images(tmp_path / "no")
    (tmp_path / "a.png").touch()
    with pytest.raises(SlsError, match="is a file, not a folder"):
        list_images(tmp_path / "a.png")
