"""What the search of a budget ended with, and how it is written into the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sls_deploy.files import write_json
from sls_deploy.models.model import RestorationModel, save_weights
from sls_deploy.search.cost import CostModel, dense_form
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS

RATIOS = "ratios.json"
HISTORY = "history.json"


@dataclass(frozen=True)
class Refilled:
    """The same network with layers below N = M/2 filled up to M/2."""

    state: Mapping[str, Tensor]
    """Its weights."""
    units: Mapping[str, int]
    """Units that the layers which were filled up keep now."""
    psnr: float
    """PSNR in dB over RGB on held-out crops."""
    steps: int
    """Training steps after the search's."""


@dataclass(frozen=True)
class Outcome:
    """A pruned network and how it came about."""

    model: RestorationModel
    """The network; narrowed if its description says so."""
    state: Mapping[str, Tensor]
    """Its weights, pruned ones exactly zero, by name in the raw network."""
    units: Mapping[str, int]
    """Units kept by each prunable layer."""
    psnr: float
    """PSNR in dB over RGB on held-out crops."""
    steps: int
    """Training steps done."""
    history: Sequence[Mapping[str, Any]] = ()
    """Figures of every epoch."""
    candidates: Sequence[Mapping[str, Any]] = ()
    """Sources of ratios that competed: 'source', 'psnr' on the held-out crops, 'chosen'."""
    notes: Sequence[str] = ()
    """What the user should know of the calibration."""
    refilled: Refilled | None = None
    """What is exported for Ampere, if layers were filled up."""
    sensitivity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By layer, and by the units that it alone keeps, the mean squared error of the output, 0..1,
    that this leaves; empty where the method does not measure it."""

    def write(
        self,
        folder: Path,
        layers: Sequence[Layer],
        pattern: Pattern,
        model: CostModel,
        facts: Mapping[str, Any],
        others: Sequence[CostModel] = (),
    ) -> Iterator[Path]:
        """Write weights, ratios and history; yields their paths.

        Args:
            folder: of the budget.
            layers: all layers of the dense network.
            pattern: what the units are.
            model: what the budget is in.
            facts: what ratios.json says beside.
            others: cost models that the budget is told in, too.
        """
        prunable = [layer for layer in layers if layer.prunable]
        (folder / REFILLED).unlink(missing_ok=True)  # of a search before this one
        ratios = {
            **facts,
            "cost_model": model.name,
            "cost_note": model.note,
            "cost": self.share(prunable, pattern, model),
            "network_cost": self.share(layers, pattern, model),
            "costs": [self._told(layers, pattern, each) for each in (model, *others)],
            "macs_per_pixel": sum(layer.macs for layer in layers),
            "psnr": self.psnr,
            "steps": self.steps,
            "candidates": list(self.candidates),
            "notes": list(self.notes),
            "layers": [self._row(layer, pattern, model) for layer in layers],
        }
        if self.refilled:
            filled = replace(self, units={**self.units, **self.refilled.units})
            ratios["refill"] = {
                "layers": list(self.refilled.units),
                "cost": filled.share(prunable, pattern, model),
                "network_cost": filled.share(layers, pattern, model),
                "psnr": self.refilled.psnr,
                "gain_db": self.refilled.psnr - self.psnr,
                "steps": self.refilled.steps,
            }
            yield save_weights(folder / REFILLED, self.model, self.refilled.state)
        yield save_weights(folder / WEIGHTS, self.model, self.state)
        yield write_json(folder / RATIOS, ratios)
        yield write_json(folder / HISTORY, {"layers": list(self.units), "epochs": self.history})

    def _row(self, layer: Layer, pattern: Pattern, model: CostModel) -> dict[str, Any]:
        weight = self.state.get(layer.parameter)
        kept, of = pattern.ratio(self.units.get(layer.name, pattern.units))
        reason = layer.reason
        if layer.prunable and kept == of:
            shape = layer.shape if weight is None else tuple(weight.shape)
            form = dense_form(replace(layer, shape=shape))
            cheaper = model.price(layer, replace(form, kept=2, of=4)) < model.price(layer, form)
            reason = "others lose less" if cheaper else model.no_gain
        return {
            **asdict(layer),
            "prunable": layer.prunable,
            "reason": reason,
            "kept": kept,
            "of": of,
            "width": list((layer.shape if weight is None else weight.shape)[:2]),
            "nonzero": 1.0 if weight is None else round(float((weight != 0).double().mean()), 6),
            "sensitivity": [
                [pattern.ratio(int(units))[0], loss]
                for units, loss in self.sensitivity.get(layer.name, {}).items()
            ],
        }

    def _told(self, layers: Sequence[Layer], pattern: Pattern, model: CostModel) -> dict[str, Any]:
        """What is left of the cost by one model."""
        prunable = [layer for layer in layers if layer.prunable]
        return {
            "model": model.name,
            "note": model.note,
            "measured": model.measured,
            "cost": self.share(prunable, pattern, model),
            "network_cost": self.share(layers, pattern, model),
        }

    def share(self, layers: Sequence[Layer], pattern: Pattern, model: CostModel) -> float:
        """Cost of some layers as a share of their dense cost."""
        kept = dense = 0.0
        for layer in layers:
            whole = dense_form(layer)
            weight = self.state.get(layer.parameter)
            ratio = pattern.ratio(self.units.get(layer.name, pattern.units))
            shape = layer.shape if weight is None else tuple(weight.shape)
            form = dense_form(replace(layer, shape=shape))
            kept += model.price(layer, replace(form, kept=ratio[0], of=ratio[1]))
            dense += model.price(layer, whole)
        return kept / dense
