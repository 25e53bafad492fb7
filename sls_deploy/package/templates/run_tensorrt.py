"""Restores a picture by numpy and TensorRT alone: python run_tensorrt.py ENGINE.plan IN... OUT."""

import ctypes
import hashlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np


def read(path: str) -> Any:
    """A binary .ppm of 8 bits, or .npy in bytes or 0..1: height x width x colours, 0..1."""
    if path.endswith(".npy"):
        array = np.load(path, allow_pickle=False)
        return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    ppm = re.match(rb"P6\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s(?s:(.*))", Path(path).read_bytes())
    width, height, levels = ppm.groups() if ppm else sys.exit(f"{path} is no 8-bit binary .ppm")
    shape = int(height), int(width), 3
    return np.frombuffer(levels, np.uint8).reshape(shape).astype(np.float32) / 255


plan, path = Path(sys.argv[1]), sys.argv[-1]
facts = json.loads(plan.with_name("package.json").read_text("utf-8"))
manifest = json.loads(plan.with_suffix(".json").read_text("utf-8"))
if hashlib.sha256(plan.read_bytes()).hexdigest() != manifest["plan_sha256"]:
    sys.exit(f"{plan} is not the engine that its manifest describes")
picture = np.concatenate([read(path) for path in sys.argv[2:-1]], axis=2)
sides, least = np.array(picture.shape[:2]), manifest["min_shape"]
wanted = -(-np.maximum(sides, least[2:]) // facts["multiple"]) * facts["multiple"]
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
batch = np.repeat(picture[None], least[0], axis=0)
in_bytes = facts["io"] == "uint8"
given = np.rint(batch.clip(0, 1) * 255).astype("u1") if in_bytes else batch.transpose(0, 3, 1, 2)
given = np.ascontiguousarray(given)
trt: Any = importlib.import_module(manifest["backend"])
runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
engine = runtime.deserialize_cuda_engine(plan.read_bytes()) or sys.exit("cannot be loaded here")
context = engine.create_execution_context()
if not context.set_input_shape("input", given.shape):
    sys.exit(f"{plan} takes {least} to {manifest['max_shape']}: cut the picture into tiles")
result = np.empty(tuple(context.get_tensor_shape("output")), given.dtype)
