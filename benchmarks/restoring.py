"""What restoring takes: time and memory of a folder, a video and a huge picture, and its seams.

    python benchmarks/restoring.py RUN --photos FOLDER [--budget 0.5] [--megapixels 100]

Inputs are made of the photographs in FOLDER, whatever their licence, and stay in a folder that is
removed. Each job is `sls-deploy restore` in a process of its own; time and memory are what it says
of itself. The seam check restores one photograph whole and in small tiles, by several margins.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyvips

from sls_deploy.cli.output import print_table
from sls_deploy.config import RestoreConfig
from sls_deploy.data.images import list_images, read_image
from sls_deploy.restore.answers import OneNetwork
from sls_deploy.restore.networks import open_network
from sls_deploy.restore.tiles import Layout, join
from sls_deploy.run import Run

MARGINS = (0, 4, 8, 16, 32)


@dataclass(frozen=True)
class Inputs:
    """What is restored."""

    folder: Path
    """Sixteen photographs of up to 320 pixels."""
    video: Path
    """48 frames of 320x180: a window that moves over a photograph."""
    huge: Path
    """One picture of so many megapixels: a photograph laid side by side."""


def main() -> None:
    """Make the inputs, restore each, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--megapixels", type=float, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        made = inputs(Path(name), asked.photos, asked.megapixels)
        rows = [
            row(kind, restored(asked.run, asked.budget, source, Path(name) / "out" / kind))
            for kind, source in (
                ("16 photographs", made.folder),
                ("video", made.video),
                (f"{asked.megapixels:g} megapixels", made.huge),
            )
        ]
    columns = ["input", "size", "seconds", "input MP/s", "peak MiB", "tiles"]
    print_table(f"budget {asked.budget:g} of {asked.run}", columns, rows)
    network = OneNetwork(open_network(Run.open(asked.run), asked.budget, RestoreConfig()),
                         RestoreConfig())  # fmt: skip
    photo = max(list_images(asked.photos)[:20], key=lambda path: path.stat().st_size)
    columns = ["margin", "largest difference", "mean difference", "99.9 %"]
    title = "tiles of 128 beside the whole picture, levels of 255"
    print_table(title, columns, list(seams(network, photo)))


def inputs(folder: Path, photos: Path, megapixels: float) -> Inputs:
    """Write the inputs."""
    sources = list_images(photos)[:16]
    small = folder / "photographs"
    small.mkdir()
    for source in sources:
        picture = pyvips.Image.thumbnail(str(source), 320)
        picture.write_to_file(str(small / f"{source.stem}.png"))
    wide = pyvips.Image.new_from_file(str(sources[0]))[:3]
    side = int((megapixels * 1e6) ** 0.5)
    times = (-(-side // wide.width), -(-side // wide.height))
    huge = folder / "huge.jpg"
    wide.replicate(*times).crop(0, 0, side, side).write_to_file(str(huge), Q=95)
    return Inputs(small, _video(folder / "video.mp4", read_image(sources[0])), huge)


def _video(path: Path, photo: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(48):
            window = photo[number : number + 180, number : number + 320]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, "rgb24")))
        container.mux(stream.encode())
    return path


def restored(run: Path, budget: float, source: Path, out: Path) -> dict[str, Any]:
    """Restore in a process of its own; what it says of itself."""
    command = [sys.executable, "-m", "sls_deploy.cli.main", "restore", str(run), str(source)]
    command += ["--out", str(out), "--budget", str(budget), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def row(kind: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    files = found["restored"]
    first = files[0]
    size = f"{first['width']}x{first['height']}"
    many = first["frames"] if first["frames"] > 1 else len(files)
    seconds, megapixels = found["seconds"], found["megapixels"]
    tiles = sum(one["tiles"] for one in files)
    return [kind, f"{many} of {size}" if many > 1 else size, f"{seconds:.1f}",
            f"{megapixels / seconds:.3f}", str(found["peak_mib"]), str(tiles)]  # fmt: skip


def seams(network: OneNetwork, photo: Path) -> Iterator[list[str]]:
    """How far tiles of 128 pixels depart from the whole picture, in levels of 255."""
    levels = read_image(photo)[:384, :384].transpose(2, 0, 1)
    picture = np.ascontiguousarray(levels, np.float32) / np.float32(255)
    whole = network.run(picture[None]).pixels[0]
    for margin in MARGINS:
        sizes = replace(network.sizes, longest=128, margin=margin)
        layout = Layout(*picture.shape[1:], sizes)
        tiles = [network.run(tile[None]).pixels[0] for tile in layout.cut(picture)]
        tiled = join(layout, tiles, network.scale)
        difference = np.abs(tiled - whole) * 255
        yield [str(margin), f"{difference.max():.3f}", f"{difference.mean():.5f}",
               f"{np.quantile(difference, 0.999):.3f}"]  # fmt: skip


if __name__ == "__main__":
    main()
