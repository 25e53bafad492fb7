"""Runs an ONNX file that someone else made, whatever form of pictures it takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sls_deploy.onnx_file import read_model
from sls_deploy.runtime.foreign_graph import adapted, fixed_size, picture_input
from sls_deploy.runtime.foreign_probe import Probe, choose_form, tell_form, try_forms
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.runner import Pictures, Runner


class ForeignOnnxRunner(OnnxRunner):
    """Runs an ONNX file of anyone's with ONNX Runtime on the CPU.

    It may call its ends what it likes, and take and give float32, float16, bfloat16, double or
    bytes, NCHW or NHWC, RGB or BGR, 0..1 or 0..255, of fixed or of open sizes. What it does not say
    is found by trying, see `try_forms`, and told in the note.

    A file that exchanges red and blue is fed and read as RGB all the same, so that it fails.

    Args:
        path: the file; see `read_model` for what is refused in it.
        reference: the network that it is to equal.
        channels: channels of the network's input: RGB of each frame.
        probe: gives the pictures to try with.
        output: name of the output that is the picture; empty to take the one that fits.
        name: what reports call the runner; the file's name if it is empty.
        prepare: what is done to a graph before ONNX Runtime gets it.

    Raises:
        SlsError: `read_model` or `try_forms` refuses the file.
    """

    def __init__(
        self,
        path: Path,
        reference: Runner,
        channels: int,
        probe: Probe,
        *,
        output: str = "",
        name: str = "",
        prepare: Callable[[bytes], bytes] = bytes,
    ) -> None:
        model, where = read_model(path), str(path)
        forms = try_forms(model, where, reference, channels, probe, output, prepare)
        form = choose_form(forms)
        self.note = tell_form(form, forms)
        source, target = form.source, form.target
        if form.exchanges:
            source, target = replace(source, bgr=False), replace(target, bgr=False)
        self.size = fixed_size(picture_input(model, where), last=source.last)
        """Height and width of the only pictures that it takes; None if it takes several sizes."""
        self.in_bytes = target.in_bytes
        """Whether it gives pictures of 8 bits."""
        self.graph = adapted(model, source, channels, target)
        """What it holds, from 'input' to 'output', both NCHW float32, RGB, 0..1."""
        super().__init__(prepare(self.graph), name or path.name)

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        return super().run(pictures)[: len(pictures)]

    def _batches(self, pictures: Pictures) -> list[NDArray[Any]]:
        """Batches of as many pictures as the file is made for, the last filled by repetition."""
        given = np.concatenate(super()._batches(pictures))
        count = self._session.get_inputs()[0].shape[0]
        if not isinstance(count, int):
            return [given]
        parts = -(-len(given) // count)
        return np.split(given[np.arange(parts * count) % len(given)], parts)
