"""Weights that the hardware executes anyway: layers below N = M/2 filled up to M/2.

Ampere's sparse tensor cores take half of the weights whether they are zero or not, so a layer with
N < M/2 runs no faster than one with M/2. What is filled up is written beside the searched weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sls_deploy.models.model import RestorationModel
from sls_deploy.progress import Report
from sls_deploy.search.layers import Layer
from sls_deploy.search.outcome import Outcome, Refilled
from sls_deploy.search.reconstruct import Choice
from sls_deploy.search.reconstruction import Reconstruction
from sls_deploy.search.sls import held_out_psnr
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_weights

_SHARE = 0.1
"""Steps after refilling, as a share of those before."""


def refillable(layers: Sequence[Layer], units: Mapping[str, int], pattern: Pattern) -> list[Layer]:
    """Layers that keep less than half and that sparse tensor cores can take."""
    return [
        layer
        for layer in layers
        if layer.name in units
        and 2 * units[layer.name] < pattern.group
        and not pattern.binary
        and not layer.why_not_eligible
    ]


def refill_masks(
    model: RestorationModel, dense: RestorationModel, layers: Sequence[Layer], pattern: Pattern
) -> dict[str, Tensor]:
    """Masks of M/2 that hold what is kept, and the largest dense weights beside it.

    Args:
        model: the pruned network.
        dense: the dense network.
        layers: those to refill.
        pattern: what the units are.

    Returns:
        0 or 1, by parameter name; 2:4-legal.
    """
    masks = {}
    for layer in layers:
        kept = model.network.get_parameter(layer.parameter).detach() != 0
        weight = dense.network.get_parameter(layer.parameter).detach().abs()
        order = rank_weights(weight + kept * (1 + weight.max()), pattern, layer.layout)
        masks[layer.parameter] = (order < pattern.group // 2).to(weight.dtype)
    return masks


def refill(outcome: Outcome, work: Reconstruction, report: Report) -> Outcome:
    """Fill up layers beside the searched weights, which stay; what does not gain is left.

    Where nothing was trained, the network is reconstructed anew. Else the new weights start at
    zero, or corrected with all others if that is better, and the network is fine-tuned on, a
    tenth as long as before.

    Args:
        outcome: what the search ended with.
        work: the dense network, its crops and settings.
        report: receives the figures of every step.
    """
    layers = refillable(work.layers, outcome.units, work.pattern)
    if not layers:
        return outcome
    make = _fine_tuned if outcome.steps else _reconstructed
    refilled = make(outcome, work, layers, report)
    return replace(outcome, refilled=refilled) if refilled.psnr > outcome.psnr else outcome


def _fine_tuned(
    outcome: Outcome, work: Reconstruction, layers: Sequence[Layer], report: Report
) -> Refilled:
    model = copy.deepcopy(outcome.model).cpu()
    model.network.load_state_dict(outcome.state)
    masks = work.masks(model, outcome.units) | refill_masks(model, work.model, layers, work.pattern)
    if work.config.method != "sls":  # which needs no graph
        corrected = work.refitted(model, masks)
        model = max(model, corrected, key=lambda item: held_out_psnr(item, work.held_out))
    steps = max(1, round(_SHARE * outcome.steps))
    recovery = work.recovery(model, masks, steps, "refill")
    recovery.run(lambda _: None, report)
    units = {layer.name: work.pattern.group // 2 for layer in layers}
    return Refilled(model.network.state_dict(), units, recovery.best_psnr, steps)


def _reconstructed(
    outcome: Outcome, work: Reconstruction, layers: Sequence[Layer], report: Report
) -> Refilled:
    units = {layer.name: work.pattern.group // 2 for layer in layers}
    filled = work.reconstructed("refilled", Choice({**outcome.units, **units}), report)
    return Refilled(filled.model.network.state_dict(), units, filled.psnr, 0)
