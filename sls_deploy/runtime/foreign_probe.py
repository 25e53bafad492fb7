"""Finds out in which form an ONNX file of anyone's takes and gives pictures, by trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.onnx_weights import shown
from sls_deploy.runtime.foreign_graph import (
    End,
    adapted,
    described,
    fixed_size,
    picture_input,
    possible_inputs,
    possible_outputs,
)
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.runner import Pictures, Runner

PLAUSIBLE_DB = 20.0
"""PSNR to PyTorch below which no form of pictures counts as found."""
_EXACT_DB = 90.0
"""PSNR above which nearer is no better: what is left is rounding."""
_MARGIN_DB = 3.0
"""How much nearer a form must come than a plainer one."""

Probe = Callable[[tuple[int, int] | None], Pictures]
"""Gives the pictures to try with, a batch of one, of the height and width that a file is made for,
or of any if it takes any."""


@dataclass(frozen=True)
class Form:
    """How a file may take and give pictures, and how near it then comes to PyTorch."""

    source: End
    """How it takes them."""
    target: End
    """How it gives them."""
    psnr_db: float
    """PSNR to PyTorch, peak 1, dB; at most 90; -inf where it gives NaN."""

    @property
    def exchanges(self) -> bool:
        """Whether it gives red for blue: no form of pictures, but a fault."""
        return self.source.bgr != self.target.bgr


def try_forms(
    model: onnx.ModelProto,
    where: str,
    reference: Runner,
    channels: int,
    probe: Probe,
    output: str = "",
    prepare: Callable[[bytes], bytes] = bytes,
) -> list[Form]:
    """Compare a file with PyTorch in every form that it can be run in, the plain ones first.

    Args:
        model: what the file holds.
        where: the file.
        reference: the network that it is to equal.
        channels: channels of the network's input: RGB of each frame.
        probe: gives the pictures.
        output: name of the output that is the picture; empty to take the one that fits.
        prepare: what is done to a graph before ONNX Runtime gets it.

    Raises:
        SlsError: ONNX Runtime cannot run the file; it has not one input for a picture, or no or
            several outputs that are one.
    """
    given = picture_input(model, where)
    outputs = _wanted(model, output, where)
    forms: list[Form] = []
    refused: list[SlsError] = []
    restored: dict[tuple[int, int] | None, tuple[Pictures, Pictures]] = {}
    for source in possible_inputs(given, channels, where):
        size = fixed_size(given, last=source.last)
        if size not in restored:
            pictures = probe(size)
            restored[size] = pictures, reference.run(pictures)
        pictures, expected = restored[size]
        try:
            results = _run(prepare(adapted(model, source, channels, None)), pictures, where)
        except SlsError as error:  # with colours along the other axis it may run
            refused.append(SlsError(error.what, where, error.fix))
            continue
        found = [
            (value, last, results[place])
            for place, value in outputs
            for last in (False, True)
            if _shape(results[place], last=last) == expected.shape[1:]
        ]
        if len({value.name for value, _, _ in found}) > 1:
            listed = ", ".join(dict.fromkeys(described(value) for value, _, _ in found))
            fix = "Name the one to take with --output."
            raise SlsError(f"gives several pictures of the right size ({listed})", where, fix)
        if not found:
            shapes = ", ".join(f"'{shown(v.name)}' {list(results[at].shape)}" for at, v in outputs)
            what = f"gives {shapes}, where the network in PyTorch gives {list(expected.shape)}"
            refused.append(SlsError(what, where, "Take a file of that network and that scale."))
        for value, last, array in found:
            dtype = ir.DataType(value.type.tensor_type.elem_type)
            forms += [
                Form(source, target, _psnr(array, expected, target))
                for target in possible_outputs(value.name, dtype, last=last)
            ]
    if not forms:
        raise refused[0]
    return forms


def choose_form(forms: Sequence[Form]) -> Form:
    """The plainest form that comes about as near to PyTorch as the nearest."""
    nearest = max(form.psnr_db for form in forms)
    return next(form for form in forms if form.psnr_db >= nearest - _MARGIN_DB)


def tell_form(form: Form, forms: Sequence[Form]) -> str:
    """A sentence without a full stop: how a file takes and gives pictures, how that was found."""
    kinds = f"takes {form.source} and gives {form.target}"
    others = [other.psnr_db for other in forms if other.psnr_db < form.psnr_db - _MARGIN_DB]
    others = [level for level in others if math.isfinite(level)]
    beside = f", in the next form {max(others):.1f} dB" if others else ""
    reached = "90 dB or more" if form.psnr_db >= _EXACT_DB else f"{form.psnr_db:.1f} dB"
    found = f"{reached} to PyTorch on a crop{beside}"
    if form.psnr_db < PLAUSIBLE_DB:
        return f"it comes near PyTorch in no form of pictures; taken is that it {kinds} ({found})"
    if form.exchanges:
        return f"it exchanges red and blue: it {kinds} ({found}), and is judged as RGB to RGB"
    return f"it {kinds}, as trying it out tells ({found})"


def _wanted(
    model: onnx.ModelProto, output: str, where: str
) -> list[tuple[int, onnx.ValueInfoProto]]:
    """The outputs that may be the picture, with their places."""
    found = [
        (place, value)
        for place, value in enumerate(model.graph.output)
        if output in ("", value.name)
    ]
    if not found:
        there = ", ".join(described(value) for value in model.graph.output)
        raise SlsError(f"has no output '{output}' (there: {there})", where, "Name another.")
    return found


def _run(content: bytes, pictures: Pictures, where: str) -> list[NDArray[Any]]:
    """All outputs for one picture, repeated where the file takes several at once."""
    session = open_session(content)
    count = session.get_inputs()[0].shape[0]
    batch = np.repeat(pictures, count if isinstance(count, int) else 1, axis=0)
    names = [item.name for item in session.get_outputs()]
    return [np.asarray(value) for value in run_session(session, names, {"input": batch}, where)]


def _shape(array: NDArray[Any], *, last: bool) -> tuple[int, ...] | None:
    """Colours, height and width; None if it is no batch of pictures."""
    if array.ndim != 4:
        return None
    _, *sizes = array.shape
    return (sizes[2], sizes[0], sizes[1]) if last else tuple(sizes)


def _psnr(array: NDArray[Any], expected: Pictures, target: End) -> float:
    picture = array[:1].transpose(0, 3, 1, 2) if target.last else array[:1]
    picture = picture[:, ::-1] if target.bgr else picture
    if target.in_bytes:
        expected = np.clip(expected, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean((picture.astype(np.float64) / target.white - expected) ** 2))
    if not math.isfinite(error):
        return -math.inf
    return min(-10 * math.log10(error), _EXACT_DB) if error else _EXACT_DB
