"""How a graph becomes each precision: which passes, decided on real pictures, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.calibration.psnr_loss import PsnrLoss
from sls_deploy.calibration.ranges import Peak, measure_peaks
from sls_deploy.config import ExportConfig, Precision
from sls_deploy.export.crops import Crops
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.half_choice import HalfChoice, choose_half
from sls_deploy.export.int8 import choose_int8
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.export.passes.manager import NamedPass
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.export.passes.slim import Slim
from sls_deploy.export.passes.static_shape import StaticShape
from sls_deploy.progress import Report
from sls_deploy.runtime.onnxruntime import OnnxRunner


@dataclass(frozen=True)
class Form:
    """One precision of a graph."""

    passes: tuple[NamedPass, ...]
    """What makes it from the fp32 graph, in order."""
    evidence: dict[str, Any]
    """What was decided and measured, for proof.json."""
    corrected: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Biases that int8 layers have instead of the search's, by name."""


class Forms:
    """The precisions of one graph; what is measured for several of them is measured once.

    Args:
        graph: the slimmed fp32 graph, with open sizes.
        crops: gives the pictures to decide on.
        options: limits and ranges.
        report: told before every measurement.
    """

    def __init__(
        self,
        graph: ir.Model,
        crops: Callable[[], Crops],
        options: ExportConfig,
        report: Report,
    ) -> None:
        self._graph, self._cut = graph, crops
        self._options, self._report = options, report
        self._halves: dict[HalfPrecision, HalfChoice] = {}

    def of(self, precision: Precision) -> Form:
        """Decide on a precision.

        Raises:
            SlsError: an activation is not finite, or the photographs cannot be used.
        """
        if precision == "fp32":
            return Form(self._sizes, {})
        if precision == "int8":
            return self._int8()
        choice = self._half(precision)
        evidence = {"half": asdict(choice), "pictures": self._crops.source}
        return Form(((precision, Half(precision, choice.keep)), *self._sizes), evidence)

    def _int8(self) -> Form:
        crops, half = self._crops, self._half("fp16")
        choice = choose_int8(
            self._graph,
            crops.inputs,
            crops.truths,
            self._options,
            self._report,
            half_keep=half.keep,
        )
        passes = (
            ("fp16", Half("fp16", half.keep)),
            ("int8", choice.pass_()),
            *self._sizes,
        )
        evidence = {
            "int8": {
                "ranges": self._options.int8_ranges,
                "loss_db": choice.loss_db,
                "loss_all_db": choice.loss_all_db,
                "layers": [asdict(layer) for layer in choice.layers],
            },
            "half": asdict(half),
            "pictures": crops.source,
        }
        corrected = {
            f"{item.weight.removesuffix('.weight')}.bias": item.bias
            for item in choice.weights
            if item.bias is not None
        }
        return Form(passes, evidence, corrected)

    @property
    def _sizes(self) -> tuple[NamedPass, ...]:
        """Fixes the one size of the input, and folds what follows from it.

        This comes last: layers are chosen by name and what grows with the picture is found by its
        open sizes, and folding removes some of those names and all of those sizes. Seen on four
        networks with onnxslim 0.1.98: it leaves QuantizeLinear, DequantizeLinear, the Casts of
        pictures and all integers of layers as they are.
        """
        shape = self._options.static_shape
        return () if shape is None else (("static shape", StaticShape(shape)), ("slim", Slim()))

    def _half(self, precision: HalfPrecision) -> HalfChoice:
        if precision not in self._halves:

            def loss(kept: frozenset[str]) -> float:
                halved = Half(precision, kept)(self._graph.clone()).model
                return self._losses.measured(OnnxRunner(to_bytes(RoundedFloat32()(halved).model)))

            limit = self._options.half_loss_db
            self._halves[precision] = choose_half(
                self._graph, precision, self._peaks, loss, limit, self._report
            )
        return self._halves[precision]

    @cached_property
    def _crops(self) -> Crops:
        return self._cut()

    @cached_property
    def _losses(self) -> PsnrLoss:
        runner = OnnxRunner(to_bytes(self._graph))
        return PsnrLoss(runner, self._crops.inputs, self._crops.truths)

    @cached_property
    def _peaks(self) -> list[Peak]:
        return measure_peaks(to_bytes(self._graph), self._crops.inputs)
