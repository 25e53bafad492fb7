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


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 312, 624, 1555),
        Gpu("a100-80gb", 312, 624, 2039),
        Gpu("a30", 165, 330, 933),
        Gpu("a10", 125, 250, 600),
        Gpu("a40", 149.7, 299.4, 696),
        Gpu("rtx3080", 119, 238, 760),
        Gpu("rtx3090", 142, 284, 936),
        Gpu("l4", 121, 242, 300),
        Gpu("l40", 181.05, 362.1, 864),
        Gpu("rtx4090", 330.3, 660.6, 1008),
    )
}
"""By name. Sources: NVIDIA's data sheets of A100 (SXM), A30, A10, A40, L4 and L40; for GeForce the
appendices of the whitepapers "NVIDIA Ampere GA102 GPU Architecture" and "NVIDIA Ada GPU
Architecture". GeForce accumulates in fp16 at twice the rate of fp32; the higher rate stands here,
because it promises less of sparsity."""


def find_gpu(name: str) -> Gpu:
    """The GPU of that name; spaces, hyphens and upper case do not matter.

    Raises:
        SlsError: its rates are not known here.
    """
    plain = {_plain(known): gpu for known, gpu in GPUS.items()}
    if _plain(name) not in plain:
        fix = f"Known are {', '.join(GPUS)}; for another, give a measured table (--latency-table)."
        raise SlsError(f"there is no latency estimate for '{name}'", "--gpu", fix)
    return plain[_plain(name)]


def estimate_us(gpu: Gpu, shape: LayerShape, *, sparse: bool) -> float:
    """Estimate the microseconds of one layer in fp16: the slower of computing and moving data.

    Activations are read and written once and weights are read once; there is no time to start a
    kernel. So it is less than any real time, and what it says of 2:4 is the most to be hoped for.
    A strided convolution counts as if it read no more positions than it writes.

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
    activation_bytes = shape.positions * shape.groups * (inputs + outputs) * _VALUE
    tflops = gpu.sparse_tflops if sparse else gpu.dense_tflops
    computing = 2 * weights * shape.positions / (tflops * 1e6)
    moving = (weight_bytes + activation_bytes) / (gpu.bandwidth * 1e3)
    return max(computing, moving)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
