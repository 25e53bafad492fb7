"""An estimate of a layer's time from the peak rates of a GPU: a roofline, never a measurement.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.errors import SlsError

_ALIGNMENT = 8
"""Channels are filled up to a multiple of this for fp16 tensor cores (NVIDIA, "Convolutional
Layers User's Guide", tensor core requirements)."""
_VALUE = 2.0
"""Bytes of an fp16 value."""
_INDEX = 0.25
"""Bytes of the two bits that say where a kept weight of a 2:4 quad stands."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a GPU, as its vendor states them."""

    name: str
    """Name in the settings."""
    dense_tflops: float
    """Dense fp16 tensor core rate in TFLOP/s; a multiply-add is two operations."""
    sparse_tflops: float
    """The same with 2:4 weights, the skipped operations counted as done."""
    bandwidth: float
    """Memory bandwidth in GB/s."""
    source: str
    """Where the vendor states that."""


_GA102 = 'NVIDIA, whitepaper "Ampere GA102 GPU Architecture", '
_ADA = 'NVIDIA, whitepaper "Ada GPU Architecture", '
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 312, 624, 1555, "NVIDIA, data sheet of the A100, SXM and PCIe with 40 GB"),
        Gpu("a100-80gb", 312, 624, 2039, "NVIDIA, data sheet of the A100, SXM with 80 GB"),
        Gpu("a30", 165, 330, 933, "NVIDIA, data sheet of the A30"),
        Gpu("a10", 125, 250, 600, "NVIDIA, data sheet of the A10"),
        Gpu("a40", 149.7, 299.4, 696, "NVIDIA, data sheet of the A40"),
        Gpu(
            "rtx3060",
            50.95,
            101.9,
            360,
            "NVIDIA, announcement of the GeForce RTX 3060, January 2021: 101 tensor TFLOP/s with "
            "sparsity; its 28 multiprocessors at 1.777 GHz, with the rates of the whitepaper "
            '"Ampere GA102 GPU Architecture"; 192 bits at 15 Gbit/s',
        ),
        Gpu("rtx3080", 119, 238, 760, _GA102 + "GeForce RTX 3080 with 10 GB"),
        Gpu("rtx3090", 142, 284, 936, _GA102 + "GeForce RTX 3090"),
        Gpu(
            "orin",
            42.5,
            85,
            204.8,
            "NVIDIA, technical brief of the Jetson AGX Orin series, module with 64 GB: the GPU's "
            "170 int8 TOPS with sparsity, fp16 at half of that rate; its data sheet: 204.8 GB/s",
        ),
        Gpu("l4", 121, 242, 300, "NVIDIA, data sheet of the L4"),
        Gpu("l40", 181.05, 362.1, 864, "NVIDIA, data sheet of the L40"),
        Gpu("rtx4090", 330.3, 660.6, 1008, _ADA + "GeForce RTX 4090"),
    )
}
"""By name. GeForce accumulates in fp16 at twice the rate of fp32; the higher rate stands here,
because it promises less of sparsity."""


def find_gpu(name: str) -> Gpu:
    """The GPU of that name; spaces, hyphens and upper case do not matter.

    Raises:
        SlsError: its rates are not known here.
    """
    plain = {_plain(known): gpu for known, gpu in GPUS.items()}
    if _plain(name) not in plain:
        fix = f"Known are {', '.join(GPUS)}; for another, give a measured table (--table)."
        raise SlsError(f"there is no latency estimate for '{name}'", "--gpu", fix)
    return plain[_plain(name)]


def estimate_us(gpu: Gpu, shape: LayerShape, *, sparse: bool) -> float:
    """Estimate the microseconds of one use of a layer: the slower of computing and moving data.

    In fp16. Activations are read and written once and weights are read once; there is no time to
    start a kernel. So it is less than any real time, and what it says of 2:4 is the most to be
    hoped for.

    Args:
        gpu: peak rates.
        shape: the layer.
        sparse: whether its weights are 2:4 and run on sparse tensor cores.
    """
    inputs, outputs = (
        math.ceil(channels / _ALIGNMENT) * _ALIGNMENT for channels in (shape.inputs, shape.outputs)
    )
    weights = shape.groups * inputs * outputs * math.prod(shape.kernel)
    weight_bytes = weights / 2 * (_VALUE + _INDEX) if sparse else weights * _VALUE
    activations = shape.groups * (shape.read * inputs + shape.written * outputs)
    tflops = gpu.sparse_tflops if sparse else gpu.dense_tflops
    computing = 2 * weights * shape.positions / (tflops * 1e6)
    moving = (weight_bytes + activations * _VALUE) / (gpu.bandwidth * 1e3)
    return max(computing, moving)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
