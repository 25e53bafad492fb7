"""Restores a picture by numpy and TensorRT alone: python run_tensorrt.py ENGINE.plan IN... OUT."""

import hashlib
import json
import re
import sys
from ctypes import CDLL, byref, c_size_t, c_uint64, c_void_p
from pathlib import Path

import numpy as np


def read(path: Path) -> np.ndarray:
    """A binary .ppm of 8 bits, or .npy in bytes or 0..1: height x width x colours, 0..1."""
    if path.suffix == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    ppm = re.match(rb"P6\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s(?s:(.*))", path.read_bytes())
    width, height, levels = ppm.groups() if ppm else sys.exit(f"{path} is no 8-bit binary .ppm")
    return np.frombuffer(levels, "u1").reshape(int(height), int(width), 3).astype("f4") / 255


plan, *sources, path = map(Path, sys.argv[1:] if len(sys.argv) > 3 else sys.exit(__doc__))
content = plan.read_bytes()
facts = json.loads(plan.with_name("package.json").read_text("utf-8"))
manifest = json.loads(plan.with_suffix(".json").read_text("utf-8"))
if hashlib.sha256(content).hexdigest() != manifest["plan_sha256"]:
    sys.exit(f"{plan} is not the engine that its manifest describes")
picture = np.concatenate([read(source) for source in sources], axis=2)
sides, least = np.array(picture.shape[:2]), manifest["min_shape"]
wanted = -(-np.maximum(sides, least[2:]) // facts["multiple"]) * facts["multiple"]
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
nhwc, whole = np.repeat(picture[None], least[0], axis=0), facts["io"] == "uint8"
given = np.rint(255 * nhwc.clip(0, 1)).astype("u1") if whole else nhwc.transpose(0, 3, 1, 2).copy()
cuda, source, target = CDLL("libcuda.so.1"), c_uint64(), c_uint64()
trt = __import__(manifest["backend"])
runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
engine = runtime.deserialize_cuda_engine(content)
context = engine.create_execution_context() if engine else sys.exit(f"{plan} cannot be loaded here")
if not context.set_input_shape("input", given.shape):
    sys.exit(f"{plan} takes {least} to {manifest['max_shape']}: cut the picture into tiles")
result = np.empty(tuple(context.get_tensor_shape("output")), given.dtype)
failed = (  # in the context of the CUDA driver that TensorRT made current, on its first stream
    cuda.cuMemAlloc_v2(byref(source), c_size_t(given.nbytes))
    or cuda.cuMemAlloc_v2(byref(target), c_size_t(result.nbytes))
    or cuda.cuMemcpyHtoD_v2(source, c_void_p(given.ctypes.data), c_size_t(given.nbytes))
    or not context.set_tensor_address("input", source.value)
    or not context.set_tensor_address("output", target.value)
    or not context.execute_async_v3(0)
    or cuda.cuMemcpyDtoH_v2(c_void_p(result.ctypes.data), target, c_size_t(result.nbytes))
)
if failed:
    sys.exit(f"{plan} cannot run here (error {failed})")
height, width = sides * facts["scale"]
restored = (result[0] / np.float32(255) if whole else result[0].transpose(1, 2, 0))[:height, :width]
if path.suffix == ".npy":
    np.save(path, restored)
else:
    levels = np.rint(restored.clip(0, 1) * 255).astype("u1")
    path.write_bytes(b"P6 %d %d 255\n" % (width, height) + levels.tobytes())
