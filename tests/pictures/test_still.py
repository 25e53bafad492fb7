from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from sls_deploy.errors import SlsError
from sls_deploy.pictures.formats import tiff_exif
from sls_deploy.pictures.still import open_still

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {".png": {}, ".tif": {}, ".webp": {"lossless": True}}
SUFFIXES = [".png", ".jpg", ".webp", ".tif"]


def read(path: Path, **options: Any) -> NDArray[np.float32]:
    with open_still(path, 100, **options) as still:
        return still.read(0, 0, still.height, still.width)


def smooth() -> Image.Image:
    return Image.fromarray(COLOURS).resize((300, 200), Image.Resampling.BICUBIC)


def deep(bands: int) -> NDArray[np.uint16]:
    return np.random.default_rng(1).integers(0, 65536, (20, 30, bands), dtype=np.uint16)


def write_deep(path: Path, samples: NDArray[np.uint16]) -> None:
    kind = "grey16" if samples.shape[2] < 3 else "rgb16"
    image = pyvips.Image.new_from_array(samples).copy(interpretation=kind)
    (image.pngsave if path.suffix == ".png" else image.tiffsave)(str(path))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims so many pixels of RGB, with chunks of our own before its few bytes."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = (header, *chunks, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in body
    )


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_colours_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOURS).save(path, **LOSSLESS[suffix])
    np.testing.assert_array_equal(read(path), np.float32(COLOURS.transpose(2, 0, 1)) / 255)


def test_jpeg_is_read_as_another_decoder_reads_it(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.jpg", quality=95, subsampling=0)
    other = np.array(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    assert np.abs(read(tmp_path / "a.jpg") * 255 - other).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str, bands: int) -> None:
    path, samples = tmp_path / f"a{suffix}", deep(bands)
    write_deep(path, samples)
    with open_still(path, 100) as still:
        told = (still.bits, still.grey, still.alpha, still.notes)
        assert told == (16, bands < 3, bands % 2 == 0, ())
        colours = samples[:, :, :1].repeat(3, 2) if bands < 3 else samples[:, :, :3]
        expected = np.float32(colours.transpose(2, 0, 1)) / np.float32(65535)
        np.testing.assert_array_equal(still.read(0, 0, 20, 30), expected)
        if still.alpha:
            np.testing.assert_array_equal(still.read_alpha(0, 0, 20, 30), samples[:, :, -1:])


@pytest.mark.parametrize(
    ("mode", "grey", "alpha"),
    [("1", True, False), ("L", True, False), ("LA", True, True), ("P", False, False),
     ("RGB", False, False), ("RGBA", False, True)],
)  # fmt: skip
def test_every_mode_of_png_is_told_and_read(
    tmp_path: Path, mode: str, grey: bool, alpha: bool
) -> None:
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / "a.png")
    with open_still(tmp_path / "a.png", 100) as still:
        assert (still.grey, still.alpha, still.bits) == (grey, alpha, 8)
    expected = np.array(picture.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.float32(expected) / 255)


def test_a_transparent_entry_of_a_palette_becomes_alpha(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "a.png", transparency=b"\xff\x80")
    with open_still(tmp_path / "a.png", 100) as still:
        assert (still.read_alpha(0, 0, 2, 4) == 0x80).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_every_part_lies_where_the_cameras_orientation_has_it(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOURS).save(path, exif=exif, **LOSSLESS[suffix])
    upright = np.array(ImageOps.exif_transpose(Image.open(path)))
    with open_still(path, 100) as still:
        assert (still.height, still.width) == upright.shape[:2]
        part = still.read(3, 5, 7, 11)
    np.testing.assert_array_equal(part, np.float32(upright[3:10, 5:16].transpose(2, 0, 1)) / 255)


@given(top=st.integers(0, 19), left=st.integers(0, 29), data=st.data())
def test_a_scratch_file_gives_every_part_that_memory_gives(
    tmp_path_factory: pytest.TempPathFactory, top: int, left: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "parts"
    folder.mkdir(exist_ok=True)
    path = folder / "a.png"
    if not path.exists():
        write_deep(path, deep(4))
    height, width = data.draw(st.integers(1, 20 - top)), data.draw(st.integers(1, 30 - left))
    with open_still(path, 1) as kept, open_still(path, 1, folder, in_memory=0) as scratched:
        np.testing.assert_array_equal(
            scratched.read(top, left, height, width), kept.read(top, left, height, width)
        )


def test_a_scratch_file_has_no_name(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.png")
    scratch = tmp_path / "scratch"
    with open_still(tmp_path / "a.png", 1, scratch, in_memory=0) as still:
        still.read(0, 0, 1, 1)
        assert list(scratch.iterdir()) == []


def test_what_lies_outside_cannot_be_read(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.png")
    with open_still(tmp_path / "a.png", 1) as still, pytest.raises(ValueError, match="not inside"):
        still.read(190, 0, 11, 1)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb_and_is_noted(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(path)
    with open_still(path, 100) as still:
        assert still.notes == ("CMYK converted to sRGB",)
        red, green, blue = still.read(0, 0, 10, 20).mean((1, 2))
    assert red > 0.85
    assert max(green, blue) < 0.3


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_a_broken_profile_is_left_out_and_noted(tmp_path: Path, suffix: str) -> None:
    smooth().save(tmp_path / f"a{suffix}", icc_profile=b"rubbish" * 40)
    with open_still(tmp_path / f"a{suffix}", 100) as still:
        assert not still.metadata.profile
        assert "profile" in still.notes[0]


def test_a_profile_for_other_colours_is_left_out(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    smooth().convert("L").save(tmp_path / "a.jpg", icc_profile=profile)
    with open_still(tmp_path / "a.jpg", 100) as still:
        assert not still.metadata.profile


def test_a_keyword_that_is_not_utf_8_costs_nothing_else(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    title = (b"tEXt", "Schöpfer\0Jürgen".encode("latin-1"))
    (tmp_path / "a.png").write_bytes(png(3, 3, title, (b"eXIf", exif.tobytes()[6:])))
    with open_still(tmp_path / "a.png", 1) as still:
        names = {name for _, name, _ in still.metadata.fields}
    assert {"exif-data", "exif-ifd0-Model"} <= names


def test_the_format_is_that_of_the_content(tmp_path: Path) -> None:
    for form in ("png", "jpeg", "webp", "tiff"):
        smooth().save(tmp_path / "a.dat", form)
        with open_still(tmp_path / "a.dat", 1) as still:
            assert still.form == form


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tag", [34665, 34664])
def test_exif_of_a_tiff_file_is_noted(tmp_path: Path, order: str, big: bool, tag: int) -> None:
    short, long, place = 3, 4, "Q" if big else "I"
    head = struct.pack(f"{order}2sH", b"II" if order == "<" else b"MM", 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    tags = [(256, short, 1), (257, short, 1), (258, short, 8), (262, short, 1), (273, long, 0),
            (277, short, 1), (278, short, 1), (279, long, 1), (tag, long, 0)]  # fmt: skip
    body = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    for name, kind, value in tags:
        body += struct.pack(f"{order}HH{place}", name, kind, 1)
        body += struct.pack(order + ("H" if kind == short else "I"), value).ljust(8 if big else 4)
    (tmp_path / "a.tif").write_bytes(head + body + bytes(8))
    with open_still(tmp_path / "a.tif", 1) as still:
        noted = ("left out EXIF data, which is not read from TIFF",)
        assert still.notes == (noted if tag == 34665 else ())


@given(st.binary(max_size=40), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
def test_no_bytes_are_too_odd_to_be_looked_at_for_exif(content: bytes, start: bytes) -> None:
    assert tiff_exif(io.BytesIO(start + content)) in (False, True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_broken_exif_does_no_harm(tmp_path: Path, suffix: str) -> None:
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" if suffix != ".tif" else b""
    smooth().save(tmp_path / f"a{suffix}", exif=exif)
    assert read(tmp_path / f"a{suffix}").shape == (3, 200, 300)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, suffix: str, in_memory: int) -> None:
    path = tmp_path / f"a{suffix}"
    smooth().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(
        SlsError, match=rf"a\{suffix}: (is damaged or cut short|cannot be read as a picture) \("
    ):
        read(path, scratch=tmp_path, in_memory=in_memory)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_checksum_that_fails_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    smooth().save(path, **({"compression": "tiff_adobe_deflate"} if suffix == ".tif" else {}))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SlsError, match="is damaged or cut short"):
        read(path)


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".png"])
def test_several_frames_are_refused_with_their_number(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 100, 200)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(SlsError, match="holds 3 pages or frames, not one picture"):
        open_still(tmp_path / f"a{suffix}", 100)


@pytest.mark.parametrize("counts", [struct.pack(">II", 1, 0), b""])
def test_a_png_that_does_not_claim_several_frames_is_a_picture(
    tmp_path: Path, counts: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(png(3, 3, (b"acTL", counts)))
    assert open_still(tmp_path / "a.png", 1).width == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, I am no picture", "no known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no known format"),
        (b"GIF89a\x01\x00\x01\x00", r"is a GIF file\. PNG, JPEG, WebP and TIFF are read"),
        (b"%PDF-1.4", "is a PDF file"),
        (b"\0\0\0\x18ftypheic", "is a HEIC file"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as a picture"),
        (png(100_000, 100_000), r"100000 x 100000 pixels, more than 100 million\. Raise"),
        (png(2**31 - 1, 2**31 - 1), "cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_refused_whatever_its_name(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SlsError, match=said):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_that_are_not_of_8_or_16_bits_are_refused(tmp_path: Path, kind: Any) -> None:
    Image.fromarray(np.zeros((4, 4), kind)).save(tmp_path / "a.tif")
    with pytest.raises(SlsError, match=r"has samples of a kind .* Convert it to 8 or 16 bits"):
        open_still(tmp_path / "a.tif", 100)


def test_more_bands_than_colours_and_alpha_are_refused(tmp_path: Path) -> None:
    pyvips.Image.black(4, 4, bands=6).tiffsave(str(tmp_path / "a.tif"))
    with pytest.raises(SlsError, match="6 bands"):
        open_still(tmp_path / "a.tif", 100)


def test_folders_pipes_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (("", "folder"), ("pipe.png", "regular"), ("b.png", "no such file")):
        with pytest.raises(SlsError, match=said):
            open_still(tmp_path / name, 100)


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    if os.access(tmp_path / "a.png", os.R_OK):
        pytest.skip("root reads every file")
    with pytest.raises(SlsError, match=r"cannot be read \(Permission denied\)"):
        open_still(tmp_path / "a.png", 100)


@pytest.mark.parametrize(
    "name", ["a[page=3].png", "a.png[page=3]", "ü→.png", "a\nb.png", "100%s.png", "l\udcffatin.png"]
)
def test_no_part_of_a_name_is_an_option(tmp_path: Path, name: str) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    assert read(tmp_path / name).shape == (3, 20, 30)


def test_a_file_that_changes_between_opening_and_reading_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    smooth().save(path)
    with open_still(path, 100) as still:
        Image.fromarray(COLOURS).save(path)
        with pytest.raises(SlsError, match="has changed since it was opened"):
            still.read(0, 0, 1, 1)


def test_room_for_the_pixels_is_sought_before_decoding(tmp_path: Path) -> None:
    smooth().save(tmp_path / "a.png")
    still = open_still(tmp_path / "a.png", 100, tmp_path / "a.png", in_memory=0)
    with pytest.raises(SlsError, match="cannot be written"):
        still.read(0, 0, 1, 1)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png").ravel(), [1, 0, 0])
