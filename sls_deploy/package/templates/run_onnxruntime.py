"""Restores a picture by numpy and onnxruntime alone: python run_onnxruntime.py IN... OUT."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

PPM = re.compile(rb"P6_+(\d+)_+(\d+)_+255_".replace(b"_", rb"(?:\s|#[^\r\n]*[\r\n])"))
*sources, path = map(Path, sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__))
about = Path(__file__)  # whatever fails is told in one line, with what it was about
sys.excepthook = lambda _, error, __: sys.exit(" ".join(f"{about}: {error}".split()))
facts = json.loads(about.with_name("package.json").read_text("utf-8"))
content, pictures = about.with_name(facts["onnx"]).read_bytes(), []
if hashlib.sha256(content).hexdigest() != facts["onnx_sha256"]:
    sys.exit(f"{facts['onnx']} is not the file that package.json describes")
if len(sources) != facts["frames"] or path.suffix not in (".ppm", ".npy"):
    sys.exit(f"give {facts['frames']} IN, and an OUT that ends in .ppm or .npy")
for about in sources:  # binary .ppm of 8 bits, or .npy of height x width x 3 in bytes or 0..1
    if about.suffix == ".npy":
        array = np.load(about, allow_pickle=False)
    else:
        ppm = PPM.match(about.read_bytes()) or sys.exit(f"{about} is no 8-bit binary .ppm")
        array = np.ndarray((int(ppm[2]), int(ppm[1]), 3), "u1", ppm.string, ppm.end())
    if array.shape[2:] != (3,) or not array.size or array.dtype.char not in "Befdg":
        sys.exit(f"{about} is {array.dtype} {array.shape}, not height x width x 3 bytes or floats")
    pictures.append(array.astype("f4") / (255 if array.dtype == "u1" else 1))
picture = np.concatenate(pictures, axis=2)
sides = np.array(picture.shape[:2])
wanted = -(-np.maximum(sides, facts["least"]) // facts["multiple"]) * facts["multiple"]
if facts["most"] and (wanted > facts["most"]).any():
    sys.exit(f"the network takes at most {facts['most']} pixels: cut the picture into tiles")
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
nhwc, whole = np.repeat(picture[None], facts["batch"], axis=0), facts["io"] == "uint8"
given = np.rint(255 * nhwc.clip(0, 1)).astype("u1") if whole else nhwc.transpose(0, 3, 1, 2).copy()
about, options = facts["onnx"], onnxruntime.SessionOptions()
# ONNX Runtime would turn fp16 biases in front of a quantiser into integers that overflow.
options.add_session_config_entry("session.disable_quant_qdq", "1")
# On a GPU it would round fp32 to ten bits, and time every kernel for every size of picture.
cuda = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
there = cuda[0] in onnxruntime.get_available_providers()
providers = [cuda, "CPUExecutionProvider"] if there else ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(content, options, providers)
result = session.run(["output"], {"input": given})[0]
about, (height, width) = path, sides * facts["scale"]
restored = (result[0] / np.float32(255) if whole else result[0].transpose(1, 2, 0))[:height, :width]
levels = np.rint(restored.clip(0, 1) * 255).astype("u1")
ppm = b"P6 %d %d 255\n" % (width, height) + levels.tobytes()
np.save(path, restored) if path.suffix == ".npy" else path.write_bytes(ppm)
