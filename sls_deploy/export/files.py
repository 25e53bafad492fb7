"""Writes a graph in one precision, and proves the file before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import first_departure
from sls_deploy.export.forms import Form
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.parity import Batch, Parity, compare, compare_bytes, measure
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.metadata import Metadata
from sls_deploy.export.passes.rounding import rounded, runnable
from sls_deploy.export.passes.uint8_io import Uint8Pictures
from sls_deploy.export.proof import LayerProof, prove
from sls_deploy.files import atomic, hash_file
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.exported import graph_file
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.runner import Pictures, Runner


@dataclass(frozen=True)
class Files:
    """What all files of one export share."""

    folder: Path
    """Where they are written."""
    model: RestorationModel
    """The network as it was searched: what they are compared with."""
    weights: Mapping[str, NDArray[Any]]
    """Its parameters, with folded normalisations: what they must hold."""
    layers: Sequence[Mapping[str, Any]]
    """The layers of ratios.json."""
    facts: Mapping[str, str]
    """What they say of themselves."""
    batches: Sequence[Batch]
    """Inputs to compare on."""
    reference: Sequence[Pictures]
    """PyTorch's output for each."""
    in_bytes: bool
    """Write beside each file one from bytes to bytes."""
    paranoid: bool
    """Compare after every pass too."""

    def write(
        self, held: ExitStack, graph: ir.Model, precision: Precision, form: Form
    ) -> dict[str, Any]:
        """Write one precision under a temporary name, and prove it.

        Args:
            held: gives the file its name when it is left, and removes it if an error passes.
            graph: the fp32 graph; it is not changed.
            precision: which one.
            form: how it comes about.

        Returns:
            The file's entry in proof.json.

        Raises:
            SlsError: a pass refuses the graph, a weight or an output differs from the search's.
        """

        def check(now: ir.Model) -> float:
            return self._measured(to_bytes(now), precision).psnr_db

        facts = Metadata({**self.facts, "precision": precision})
        passes = (*form.passes, ("metadata", facts))
        made, changes = run_passes(graph.clone(), passes, check if self.paranoid else None)
        final = graph_file(self.folder, precision)
        path = held.enter_context(atomic(final))
        layers = self._prove(path, made, form)
        content = path.read_bytes()
        entry = {
            **self._entry(final.name, path),
            "opset": made.opset_imports[""],
            **self._parities(content, precision),
            **form.evidence,
            "passes": [asdict(change) for change in changes],
            "layers": [asdict(layer) for layer in layers],
        }
        if self.in_bytes:
            entry["uint8"] = self._write_in_bytes(held, made, content, precision, form)
        return entry

    def _write_in_bytes(
        self, held: ExitStack, floats: ir.Model, content: bytes, precision: Precision, form: Form
    ) -> dict[str, Any]:
        """Make a graph of floats one from bytes to bytes, and compare it with its file."""
        facts = Metadata({**self.facts, "precision": precision, "io": "uint8"})
        passes = (("uint8", Uint8Pictures()), ("metadata", facts))
        made, _ = run_passes(floats, passes)
        final = graph_file(self.folder, precision, "uint8")
        path = held.enter_context(atomic(final))
        self._prove(path, made, form)
        runner = self._runner(content, precision)
        expected = [runner.run(batch.pictures) for batch in self.batches]
        bytes_runner = self._runner(path.read_bytes(), precision)
        levels = compare_bytes(expected, bytes_runner, self.batches, precision)
        return {**self._entry(final.name, path), **asdict(levels)}

    def _prove(self, path: Path, made: ir.Model, form: Form) -> tuple[LayerProof, ...]:
        path.write_bytes(to_bytes(made))
        return prove(path, self.weights, self.layers, form.corrected)

    def _entry(self, name: str, path: Path) -> dict[str, Any]:
        return {"file": name, "sha256": hash_file(path), "bytes": path.stat().st_size}

    def _parities(self, content: bytes, precision: Precision) -> dict[str, Any]:
        """Parity as ONNX Runtime computes it and, for fp16, with every activation rounded."""
        try:
            found = {"parity": asdict(self._compared(content, precision))}
            if precision == "fp16":
                found["parity_rounded"] = asdict(self._compared(rounded(content), precision))
        except SlsError as error:
            what = f"{error.what}{self._first_departure(content, precision)}"
            raise SlsError(what, error.where, error.fix) from None
        return found

    def _first_departure(self, content: bytes, precision: Precision) -> str:
        """Where a wrong file departs, to put behind the error; empty if that cannot be found."""
        try:
            return f"; {first_departure(self.model, content, self.batches, precision)}"
        except SlsError:
            return ""

    def _compared(self, content: bytes, precision: Precision) -> Parity:
        return compare(self.reference, self._runner(content, precision), self.batches, precision)

    def _measured(self, content: bytes, precision: Precision) -> Parity:
        return measure(self.reference, self._runner(content, precision), self.batches, precision)

    def _runner(self, content: bytes, precision: Precision) -> Padded:
        return padded(OnnxRunner(runnable(content, precision)), self.model.description)


def padded(runner: Runner, about: Description) -> Padded:
    """A runner that takes pictures of any size."""
    return Padded(runner, about.least_side, about.multiple, about.scale)
