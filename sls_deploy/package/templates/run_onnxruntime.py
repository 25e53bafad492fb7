"""Restores a picture by numpy and onnxruntime alone: python run_onnxruntime.py IN... OUT."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

PPM = re.compile(rb"P6_+(\d+)_+(\d+)_+255_".replace(b"_", rb"(?:\s|#[^\r\n]*[\r\n])"))


def read(path: Path) -> np.ndarray:
    """A binary .ppm of 8 bits, or .npy in bytes or floats of 0..1: height x width x 3, 0..1."""
    try:
        if path.suffix == ".npy":
            array: np.ndarray = np.load(path, allow_pickle=False)
        else:
            ppm = PPM.match(path.read_bytes()) or sys.exit(f"{path} is no 8-bit binary .ppm")
            width, height = map(int, ppm.groups())
            levels = ppm.string[ppm.end() : ppm.end() + 3 * width * height]
            array = np.frombuffer(levels, "u1").reshape(height, width, 3)
        if array.shape[2:] != (3,) or not array.size or array.dtype.char not in "Befdg":
            raise ValueError(f"{array.dtype} {array.shape}, not height x width x 3 bytes or floats")
    except Exception as error:
        sys.exit(f"{path} cannot be read ({' '.join(str(error).split())})")
    return array.astype("f4") / (255 if array.dtype == "u1" else 1)


def main(*sources: Path, path: Path) -> None:
    """Fill the pictures up, run the network, and cut back what it gives."""
    facts = json.loads(Path(__file__).with_name("package.json").read_text("utf-8"))
    content = Path(__file__).with_name(facts["onnx"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != facts["onnx_sha256"]:
        sys.exit(f"{facts['onnx']} is not the file that package.json describes")
    pictures = [read(source) for source in sources]
    if len(pictures) != facts["frames"] or len({picture.shape for picture in pictures}) > 1:
        sys.exit(f"the network takes {facts['frames']} pictures, all of one size")
    sides = np.array(pictures[0].shape[:2])
    wanted = -(-np.maximum(sides, facts["least"]) // facts["multiple"]) * facts["multiple"]
    if facts["most"] and (wanted > facts["most"]).any():
        sys.exit(f"the network takes at most {facts['most']} pixels: cut the picture into tiles")
    edges = [*((0, more) for more in wanted - sides), (0, 0)]
    picture = np.pad(np.concatenate(pictures, axis=2), edges, "reflect")
    nhwc, whole = np.repeat(picture[None], facts["batch"], axis=0), facts["io"] == "uint8"
    ...
