"""Restores a picture: python run_onnxruntime.py IN... OUT. Needs numpy and onnxruntime alone.

Pictures are binary .ppm files, or .npy of height x width x colours in bytes or 0..1; a network of
several frames takes one IN for each.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PPM = rb"P6\s(?:\s*#.*\n)*\s*(\d+)\s+(\d+)\s+(\d+)\s"


def read(path: str) -> Any:
    """Height x width x colours, float32, 0..1."""
    if path.endswith(".npy"):
        array = np.load(path, allow_pickle=False)
        return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    content = Path(path).read_bytes()
    header = re.match(PPM, content) or sys.exit(f"{path} is not a binary .ppm file")
    width, height, white = map(int, header.groups())
    levels = np.frombuffer(content, ">u2" if white > 255 else "u1", offset=header.end())
    return levels[: height * width * 3].reshape(height, width, 3).astype(np.float32) / white


if len(sys.argv) < 3:
    sys.exit(__doc__)
facts = json.loads(Path(__file__).with_name("package.json").read_text("utf-8"))
model = Path(__file__).with_name(facts["onnx"]).read_bytes()
if hashlib.sha256(model).hexdigest() != facts["onnx_sha256"]:
    sys.exit(f"{facts['onnx']} is not the file that package.json describes")
picture = np.concatenate([read(path) for path in sys.argv[1:-1]], axis=2)
sides = np.array(picture.shape[:2])
wanted = -(-np.maximum(sides, facts["least"]) // facts["multiple"]) * facts["multiple"]
if facts["most"] and (wanted > facts["most"]).any():
    sys.exit(f"the network takes at most {facts['most']} pixels: cut the picture into tiles")
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
batch = np.repeat(picture[None], facts["batch"], axis=0)
in_bytes = facts["io"] == "uint8"
given = np.rint(batch.clip(0, 1) * 255).astype("u1") if in_bytes else batch.transpose(0, 3, 1, 2)
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_quant_qdq", "1")
providers = [name for name in onnxruntime.get_available_providers() if "Tensorrt" not in name]
session = onnxruntime.InferenceSession(model, options, providers)
result = session.run(["output"], {"input": given})[0][0]
restored = result.astype(np.float32) / 255 if in_bytes else result.transpose(1, 2, 0)
height, width = sides * facts["scale"]
restored = restored[:height, :width]
if sys.argv[-1].endswith(".npy"):
    np.save(sys.argv[-1], restored)
else:
    levels = np.rint(restored.clip(0, 1) * 255).astype(np.uint8)
    Path(sys.argv[-1]).write_bytes(b"P6 %d %d 255\n" % (width, height) + levels.tobytes())
