"""Finds a layer's weight among the bytes of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

_FEWEST = 16
"""Distinct nonzero values that a weight needs for a match not to be an accident."""
_MULTIPLES = (1, 2, 4, 8)
"""Multiples that the last axis of a stored weight may be filled up to with zeros.

Measured on TensorRT for RTX 1.7: convolutions fp32 1, fp16 and bf16 2, int8 4, also in groups;
transposed convolutions 8, but in int8 or in groups 1; products 2. One plan for several of SM80,
SM86 and SM89 holds each weight once, in the same form. With SM75 among them, products are filled
up further and convolutions in groups are not there as they are."""
_LOWER = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}


def find_weight(weight: NDArray[Any], plan: bytes, *, product: bool = False) -> bool | None:
    """Look a layer's weight up in a plan, as it is stored there.

    Of a convolution the second axis lies last, as KRSC; of a transposed one too, which makes it
    CRSK. Of a product the matrix lies as it is in the graph or turned. The last axis is filled up
    with zeros.

    Args:
        weight: as the operator gets it, in the graph's precision: [C_out, C_in per group, *kernel],
            [C_in, C_out per group, *kernel] of a transposed convolution, or a matrix or a batch of
            matrices of a product.
        plan: the serialised engine.
        product: whether it is the weight of a matrix product.

    Returns:
        True if all of it stands there in one piece; None if the weight has so few distinct
        values that finding it would prove nothing.
    """
    if len(np.unique(weight[weight != 0])) < _FEWEST:
        return None
    forms = _product_forms(weight) if product else _convolution_forms(weight)
    return any(form.tobytes() in plan for form in forms)


def rounded_to(weight: NDArray[Any], plan: bytes, *, product: bool = False) -> str:
    """The precision that a plan holds an fp32 weight in, if that is a lower one; else empty.

    Seen of TensorRT for RTX 1.7: transposed convolutions that stand in fp32 between casts in a
    bf16 graph are computed in bf16, though the graph is strongly typed.

    Args:
        weight: as `find_weight` takes it.
        plan: the serialised engine.
        product: whether it is the weight of a matrix product.

    Returns:
        'bf16', 'fp16' or ''.
    """
    if weight.dtype != np.float32:
        return ""
    for name, kind in _LOWER.items():
        with np.errstate(over="ignore"):
            rounded = weight.astype(helper.tensor_dtype_to_np_dtype(kind))
        if find_weight(rounded, plan, product=product):
            return name
    return ""


def _convolution_forms(weight: NDArray[Any]) -> Iterator[NDArray[Any]]:
    yield from _filled_up(np.moveaxis(weight, 1, -1))


def _product_forms(weight: NDArray[Any]) -> Iterator[NDArray[Any]]:
    yield from _filled_up(weight)
    yield from _filled_up(weight.swapaxes(-1, -2))


def _filled_up(stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A weight with its last axis filled up to each multiple, every width once."""
    width = stored.shape[-1]
    for wider in sorted({-width % multiple for multiple in _MULTIPLES}):
        yield np.pad(stored, [(0, 0)] * (stored.ndim - 1) + [(0, wider)])
