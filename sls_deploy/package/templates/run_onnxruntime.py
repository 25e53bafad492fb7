"""Restores a picture by numpy and onnxruntime alone: python run_onnxruntime.py IN... OUT."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def read(path: Path) -> np.ndarray:
    """A binary .ppm of 8 bits, or .npy in bytes or 0..1: height x width x colours, 0..1."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    ppm = re.match(rb"P6\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s(?s:(.*))", path.read_bytes())
    width, height, levels = ppm.groups() if ppm else sys.exit(f"{path} is no 8-bit binary .ppm")
    return np.frombuffer(levels, "u1").reshape(int(height), int(width), 3).astype("f4") / 255


*sources, path = map(Path, sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__))
facts = json.loads(Path(__file__).with_name("package.json").read_text("utf-8"))
content = Path(__file__).with_name(facts["onnx"]).read_bytes()
if hashlib.sha256(content).hexdigest() != facts["onnx_sha256"]:
    sys.exit(f"{facts['onnx']} is not the file that package.json describes")
picture = np.concatenate([read(source) for source in sources], axis=2)
sides = np.array(picture.shape[:2])
wanted = -(-np.maximum(sides, facts["least"]) // facts["multiple"]) * facts["multiple"]
if facts["most"] and (wanted > facts["most"]).any():
    sys.exit(f"the network takes at most {facts['most']} pixels: cut the picture into tiles")
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
nhwc, whole = np.repeat(picture[None], facts["batch"], axis=0), facts["io"] == "uint8"
given = np.rint(255 * nhwc.clip(0, 1)).astype("u1") if whole else nhwc.transpose(0, 3, 1, 2).copy()
options = onnxruntime.SessionOptions()
# ONNX Runtime would turn fp16 biases in front of a quantiser into integers that overflow.
options.add_session_config_entry("session.disable_quant_qdq", "1")
# Its TensorRT provider would build an engine of its own first.
providers = [name for name in onnxruntime.get_available_providers() if "Tensorrt" not in name]
session = onnxruntime.InferenceSession(content, options, providers)
result = session.run(["output"], {"input": given})[0]
height, width = sides * facts["scale"]
restored = (result[0] / np.float32(255) if whole else result[0].transpose(1, 2, 0))[:height, :width]
if path.suffix == ".npy":
    np.save(path, restored)
else:
    levels = np.rint(restored.clip(0, 1) * 255).astype("u1")
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + levels.tobytes())
