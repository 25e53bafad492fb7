from __future__ import annotations

import io
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sls_deploy.data.bicubic import upscale
from sls_deploy.data.images import write_image
from sls_deploy.errors import SlsError
from sls_deploy.pictures.canvas import Canvas
from sls_deploy.pictures.encode import check_target, save_still, target_notes
from sls_deploy.pictures.still import open_still

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
SUFFIXES = [".png", ".jpg", ".webp", ".tif"]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def restore(source: Path, target: Path, scale: int = 2, in_memory: int = 2**20) -> Path:
    """Repeat each pixel `scale` times, which stands for a network."""
    with open_still(source, 100, target.parent, in_memory) as still:
        size = (still.height * scale, still.width * scale)
        channels: Any = 1 if still.grey else 3
        with Canvas(*size, channels, still.bits, target.parent, in_memory) as canvas:
            pixels = still.read(0, 0, still.height, still.width)
            canvas.put(0, 0, pixels.repeat(scale, 1).repeat(scale, 2))
            save_still(still, canvas, target, scale, 95)
    return target


def shown(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


@cache  # it holds the time when it was made
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x0110] = orientation, "Camera"
    tags.get_ifd(0x8769)[0xA002] = 30
    tags.get_ifd(0x8769)[0xA003] = 20
    return tags


def repeated(samples: NDArray[Any], scale: int) -> NDArray[Any]:
    return samples.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_a_lossless_format_holds_the_canvas(
    tmp_path: Path, suffix: str, mode: str, in_memory: int
) -> None:
    picture = Image.fromarray(COLOURS[:, :, :3]).convert(mode)
    picture.save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / f"b{suffix}", 2, in_memory))
    assert saved.mode == mode
    np.testing.assert_array_equal(np.array(saved), repeated(np.array(picture), 2))


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_lossy_format_stays_close(tmp_path: Path, suffix: str, mode: str) -> None:
    picture = Image.fromarray(COLOURS[:, :, :3]).resize((240, 160), 3).convert(mode)
    picture.save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / f"b{suffix}")).convert(mode)
    difference = np.array(saved).astype(int) - repeated(np.array(picture), 2)
    assert np.sqrt((difference**2).mean()) < 5


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_sixteen_bits_and_alpha_stay_as_they_are_at_scale_1(
    tmp_path: Path, suffix: str, bands: int, in_memory: int
) -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (20, 30, bands), dtype=np.uint16)
    kind = "grey16" if bands < 3 else "rgb16"
    source = pyvips.Image.new_from_array(samples).copy(interpretation=kind)
    source.pngsave(str(tmp_path / "a.png"))
    target = restore(tmp_path / "a.png", tmp_path / f"b{suffix}", 1, in_memory)
    saved = pyvips.Image.new_from_file(str(target))
    assert saved.interpretation == kind
    np.testing.assert_array_equal(saved.numpy().reshape(samples.shape), samples)


def test_sixteen_bits_are_rounded_for_a_format_of_eight(tmp_path: Path) -> None:
    level = 257 * 100 + 200
    Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / "b.jpg"))
    assert (np.array(saved) == 101).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_alpha_is_enlarged_by_bicubic(tmp_path: Path, scale: int, in_memory: int) -> None:
    picture = COLOURS // 2 + 64  # away from the ends, where the two clip at different times
    Image.fromarray(picture).save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / "b.png", scale, in_memory))
    alpha = np.array(saved)[:, :, 3:].astype(int)
    expected = upscale(picture[:, :, 3:], scale).astype(int)
    assert alpha.shape == expected.shape
    margin = 2 * scale  # at the edges the two continue the picture differently
    inner = (slice(margin, -margin), slice(margin, -margin))
    assert np.abs(alpha - expected)[inner].max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_alpha_is_turned_with_the_picture(tmp_path: Path, orientation: int) -> None:
    opaque = COLOURS.copy()
    opaque[:, :, 3] = opaque[:, :, 0]
    Image.fromarray(opaque).save(tmp_path / "a.png", exif=exif(orientation))
    saved = np.array(shown(restore(tmp_path / "a.png", tmp_path / "b.png", 1)))
    np.testing.assert_array_equal(saved[:, :, 3], saved[:, :, 0])


@pytest.mark.parametrize("source", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp"])
def test_exif_is_kept_upright_and_with_the_new_size(
    tmp_path: Path, source: str, target: str
) -> None:
    picture = Image.fromarray(COLOURS[:, :, :3])
    picture.save(tmp_path / f"a{source}", exif=exif(6))
    saved = shown(restore(tmp_path / f"a{source}", tmp_path / f"b{target}"))
    assert saved.size == (40, 60)
    tags = saved.getexif()
    assert (tags[0x0112], tags[0x0110]) == (1, "Camera")
    assert (tags.get_ifd(0x8769)[0xA002], tags.get_ifd(0x8769)[0xA003]) == (40, 60)


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("target", SUFFIXES)
def test_the_colour_profile_is_kept(tmp_path: Path, source: str, target: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / f"a{source}", icc_profile=profile())
    saved = shown(restore(tmp_path / f"a{source}", tmp_path / f"b{target}"))
    assert saved.info["icc_profile"] == profile()


@pytest.mark.parametrize("source", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif"])
def test_the_resolution_is_kept(tmp_path: Path, source: str, target: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / f"a{source}", dpi=(300, 300))
    saved = shown(restore(tmp_path / f"a{source}", tmp_path / f"b{target}"))
    assert saved.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("target", SUFFIXES)
def test_xmp_is_kept(tmp_path: Path, target: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / "a.jpg", xmp=XMP)
    saved = pyvips.Image.new_from_file(str(restore(tmp_path / "a.jpg", tmp_path / f"b{target}")))
    assert XMP in saved.get("xmp-data")


@pytest.mark.parametrize("target", [".png", ".jpg", ".webp"])
def test_no_exif_is_made_up(tmp_path: Path, target: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / f"b{target}"))
    assert dict(saved.getexif()) == {}


def test_the_thumbnail_is_left_out(tmp_path: Path) -> None:
    thumbnail = pyvips.Image.black(8, 8, bands=3).jpegsave_buffer()
    image = pyvips.Image.black(30, 20, bands=3).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", thumbnail)
    image.jpegsave(str(tmp_path / "a.jpg"))
    assert "jpeg-thumbnail-data" in pyvips.Image.new_from_file(str(tmp_path / "a.jpg")).get_fields()
    saved = pyvips.Image.new_from_file(str(restore(tmp_path / "a.jpg", tmp_path / "b.jpg")))
    assert "jpeg-thumbnail-data" not in saved.get_fields()


def grey_profile(gamma: float) -> bytes:
    """The least that is a profile of grey: white point and one curve (ICC.1:2022, 8.3.3)."""
    tags = {
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256)),
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x", start + len(body), 0x02400000, b"mntr", b"GRAY", b"XYZ ",
        b"acsp", 63190, 65536, 54061,
    )  # fmt: skip
    return header + table + body


def test_grey_with_a_profile_stays_grey(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS[:, :, 0])
    picture.save(tmp_path / "a.tif", icc_profile=grey_profile(1.0))
    for suffix in (".png", ".jpg", ".tif"):
        saved = shown(restore(tmp_path / "a.tif", tmp_path / f"b{suffix}"))
        assert (saved.mode, saved.info["icc_profile"]) == ("L", grey_profile(1.0))


def test_grey_with_a_profile_becomes_srgb_in_webp(tmp_path: Path) -> None:
    linear = Image.new("L", (30, 20), 128)
    linear.save(tmp_path / "a.tif", icc_profile=grey_profile(1.0))
    saved = shown(restore(tmp_path / "a.tif", tmp_path / "b.webp"))
    assert np.abs(np.array(saved.convert("RGB")).astype(int) - 188).max() <= 3


def test_chroma_of_jpeg_is_not_halved(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / "a.png")
    saved = shown(restore(tmp_path / "a.png", tmp_path / "b.jpg"))
    assert {layer[1:3] for layer in saved.layer} == {(1, 1)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("suffix", "size", "scale", "said"),
    [
        (".webp", (4096, 1), 4, "cannot hold 16384 x 4 pixels: webp ends at 16383 a side"),
        (".jpg", (1, 16376), 4, "cannot hold 4 x 65504 pixels: jpeg ends at 65500 a side"),
        (".png", (250_001, 1), 4, "png ends at 1000000 a side"),
        (".txt", (1, 1), 1, "is not a name for a picture. End it in one of"),
        ("", (1, 1), 1, "is not a name for a picture. End it in one of"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_any_pixel_is_read(
    tmp_path: Path, suffix: str, size: tuple[int, int], scale: int, said: str
) -> None:
    Image.new("L", size).save(tmp_path / "a.tif")
    still = open_still(tmp_path / "a.tif", 100)
    with pytest.raises(SlsError) as caught:
        check_target(still, tmp_path / f"b{suffix}", scale)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "size"), [(".webp", (16383, 1)), (".jpg", (65500, 1)), (".png", (1_000_000, 1))]
)
def test_the_longest_side_of_a_format_can_be_written(
    tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    Image.new("L", size, 128).save(tmp_path / "a.tif")
    saved = pyvips.Image.new_from_file(str(restore(tmp_path / "a.tif", tmp_path / f"b{suffix}", 1)))
    assert (saved.width, saved.height) == size


def test_transparency_is_refused_for_jpeg(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    still = open_still(tmp_path / "a.png", 100)
    with pytest.raises(SlsError, match=r"jpeg cannot hold the transparency of .* `--format png`"):
        check_target(still, tmp_path / "b.jpg", 2)


def fields(path: Path) -> list[str]:
    """Names of what libvips reads beside the pixels."""
    found: list[str] = pyvips.Image.new_from_file(str(path)).get_fields()
    return found


def notes(source: Path, target: str) -> tuple[str, ...]:
    with open_still(source, 100) as still:
        return target_notes(still, source.with_name(target))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exif_is_noted_where_it_is_left_out(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / "a.jpg", exif=exif(1))
    dropped = "exif-data" not in fields(restore(tmp_path / "a.jpg", tmp_path / f"b{suffix}"))
    said = notes(tmp_path / "a.jpg", f"b{suffix}")
    assert said == (("left out EXIF data, which is not written into tiff",) if dropped else ())
    assert dropped == (suffix == ".tif")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_iptc_is_noted_where_it_is_left_out(tmp_path: Path, suffix: str) -> None:
    image = pyvips.Image.black(30, 20, bands=3).copy(interpretation="srgb")
    title = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02\x05\0\x03abc"
    image.set_type(pyvips.GValue.blob_type, "iptc-data", title)
    image.jpegsave(str(tmp_path / "a.jpg"), keep="iptc")
    dropped = "iptc-data" not in fields(restore(tmp_path / "a.jpg", tmp_path / f"b{suffix}"))
    said = notes(tmp_path / "a.jpg", f"b{suffix}")
    assert [note.startswith("left out IPTC data") for note in said] == [True] * dropped
    assert dropped == (suffix in (".png", ".webp"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sixteen_bits_are_noted_where_they_become_eight(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.full((8, 8), 25_900, np.uint16)).save(tmp_path / "a.png")
    said = notes(tmp_path / "a.png", f"b{suffix}")
    name = {".jpg": "jpeg", ".webp": "webp"}.get(suffix)
    assert said == ((f"16 bits are rounded to the 8 of {name}",) if name else ())


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("a.jpg", "a.jpg", ("is png by its content, and written as jpeg by its name",)),
        ("a.jpg", "a.png", ()),  # by --format: nothing is lost
        ("a.png", "a.jpg", ()),  # by --format: what was asked for
        ("a.dat", "a.dat.png", ()),
        ("a.dat", "a.dat.tif", ("is png by its content, and written as tiff by its name",)),
    ],
)
def test_a_name_that_lies_about_the_format_is_noted(
    tmp_path: Path, source: str, target: str, said: tuple[str, ...]
) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / source, "PNG")
    assert notes(tmp_path / source, target) == said


def test_grey_with_a_profile_is_noted_where_it_becomes_srgb(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.tif", icc_profile=grey_profile(1.0))
    assert notes(tmp_path / "a.tif", "b.png") == ()
    assert "converted to sRGB" in notes(tmp_path / "a.tif", "b.webp")[0]


def test_no_notes_for_what_is_no_picture(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(SlsError, match="is not a name for a picture"):
        notes(tmp_path / "a.png", "b.txt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing_and_what_was_there(tmp_path: Path, suffix: str) -> None:
    script = """
import pathlib, resource, signal, sys
import numpy as np
from sls_deploy.errors import SlsError
from sls_deploy.pictures.canvas import Canvas
from sls_deploy.pictures.encode import save_still
from sls_deploy.pictures.still import open_still
source, target = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_still(source, 100) as still, Canvas(600, 600, 3, 8, target.parent) as canvas:
    canvas.put(0, 0, np.random.default_rng(0).random((3, 600, 600), np.float32))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        save_still(still, canvas, target, 2, 95)
    except SlsError as error:
        print(error)
"""
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    target = tmp_path / "out" / f"b{suffix}"
    target.parent.mkdir()
    target.write_text("before")
    command = [sys.executable, "-c", script, str(tmp_path / "a.png"), str(target)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"b{suffix}: cannot be written (File too large). Free some space" in run.stdout
    assert run.stderr == ""
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert target.read_text() == "before"


@pytest.mark.parametrize("name", ["b[Q=1].png", "b.x[strip].jpg", "ü→%s.webp", "a\nb.tif"])
def test_no_part_of_a_targets_name_is_an_option(tmp_path: Path, name: str) -> None:
    Image.fromarray(COLOURS[:, :, :3]).save(tmp_path / "a.png")
    assert shown(restore(tmp_path / "a.png", tmp_path / "out" / name)).size == (60, 40)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_saving_a_large_canvas_takes_little_memory(tmp_path: Path) -> None:
    script = """
import pathlib, sys
import numpy as np
from PIL import Image
from sls_deploy.process_memory import peak_mib
from sls_deploy.pictures.canvas import Canvas
from sls_deploy.pictures.encode import save_still
from sls_deploy.pictures.still import open_still
folder = pathlib.Path(sys.argv[1])
side = 8000
with open_still(folder / "a.png", 100, folder, 0) as still:
    with Canvas(side, side, 3, 8, folder, 0) as canvas:
        tile = np.tile(np.linspace(0, 1, 500, dtype=np.float32), (3, 500, 1))
        for top in range(0, side, 500):
            for left in range(0, side, 500):
                canvas.put(top, left, tile)
        before = peak_mib()
        save_still(still, canvas, folder / "b.jpg", side // 1000, 95)
        print(peak_mib() - before)
"""
    Image.new("RGB", (1000, 1000)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 60  # MiB, of 183 that the canvas holds


def test_what_is_stopped_leaves_no_file(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png", np.zeros((600, 600, 3), np.uint8))
    target = tmp_path / "out" / "a.png"
    with open_still(source, 1000) as still, Canvas(600, 600, 3, 8, tmp_path) as canvas:
        canvas.put(0, 0, np.random.default_rng(0).random((3, 600, 600), np.float32))
        with pytest.raises(SlsError):
            save_still(still, canvas, target, 1, 95, lambda: True)
    assert list(target.parent.iterdir()) == []
