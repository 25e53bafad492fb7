"""Restores a picture by numpy and TensorRT alone: python run_tensorrt.py ENGINE.plan IN... OUT."""

import hashlib
import json
import re
import sys
from ctypes import CDLL, byref, c_size_t, c_uint64, c_void_p
from pathlib import Path

import numpy as np

PPM = re.compile(rb"P6_+(\d+)_+(\d+)_+255_".replace(b"_", rb"(?:\s|#[^\r\n]*[\r\n])"))
plan, *sources, path = map(Path, sys.argv[1:] if len(sys.argv) > 3 else sys.exit(__doc__))
about: object = plan  # whatever fails is told in one line, with what it was about
sys.excepthook = lambda _, error, __: sys.exit(" ".join(f"{about}: {error}".split()))
facts = json.loads(plan.with_name("package.json").read_text("utf-8"))
manifest = json.loads(plan.with_suffix(".json").read_text("utf-8"))
content, pictures = plan.read_bytes(), []
if hashlib.sha256(content).hexdigest() != manifest["plan_sha256"]:
    sys.exit(f"{plan} is not the engine that its manifest describes")
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
sides, least = np.array(picture.shape[:2]), manifest["min_shape"]
wanted = -(-np.maximum(sides, least[2:]) // facts["multiple"]) * facts["multiple"]
picture = np.pad(picture, [*((0, more) for more in wanted - sides), (0, 0)], "reflect")
nhwc, whole = np.repeat(picture[None], least[0], axis=0), facts["io"] == "uint8"
given = np.rint(255 * nhwc.clip(0, 1)).astype("u1") if whole else nhwc.transpose(0, 3, 1, 2).copy()
about = "{} needs {backend} {backend_version}, {architecture} and a driver".format(plan, **manifest)
cuda, trt = CDLL("libcuda.so.1"), __import__(manifest["backend"])
runtime, source, target = trt.Runtime(trt.Logger(trt.Logger.WARNING)), c_uint64(), c_uint64()
engine = runtime.deserialize_cuda_engine(content)
context = engine.create_execution_context() if engine else sys.exit(f"{about}: it does not load")
if not context.set_input_shape("input", given.shape):
    sys.exit(f"{plan} takes {least} to {manifest['max_shape']}: cut the picture into tiles")
result = np.empty(tuple(context.get_tensor_shape("output")), given.dtype)
if failed := (  # in the context of the CUDA driver that TensorRT made current, on its first stream
    cuda.cuMemAlloc_v2(byref(source), c_size_t(given.nbytes))
    or cuda.cuMemAlloc_v2(byref(target), c_size_t(result.nbytes))
    or cuda.cuMemcpyHtoD_v2(source, c_void_p(given.ctypes.data), c_size_t(given.nbytes))
    or not context.set_tensor_address("input", source.value)
    or not context.set_tensor_address("output", target.value)
    or not context.execute_async_v3(0)
    or cuda.cuMemcpyDtoH_v2(c_void_p(result.ctypes.data), target, c_size_t(result.nbytes))
):
    sys.exit(f"{plan} cannot run here (error {failed})")
about, (height, width) = path, sides * facts["scale"]
restored = (result[0] / np.float32(255) if whole else result[0].transpose(1, 2, 0))[:height, :width]
levels = np.rint(restored.clip(0, 1) * 255).astype("u1")
ppm = b"P6 %d %d 255\n" % (width, height) + levels.tobytes()
np.save(path, restored) if path.suffix == ".npy" else path.write_bytes(ppm)
