"""Which layers must stay in a higher precision so that pictures lose little enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report, silent

Loss = Callable[[frozenset[str]], float]
"""Loss in dB when exactly the given layers compute in the lower precision."""

Alone = Callable[[str], float]
"""What a layer costs in the lower precision when it is the only one, in dB; any measure by which
layers can be told apart."""


@dataclass(frozen=True)
class Fallback:
    """The layers that stay in the higher precision, and what all of it loses."""

    kept: tuple[str, ...]
    """Layers left in the higher precision, worst first."""
    loss_db: float
    """Measured loss with those kept, in dB."""
    loss_all_db: float
    """Measured loss with every layer in the lower precision, in dB."""
    single_db: Mapping[str, float]
    """What each layer costs alone in the lower precision, in dB; empty where it was not needed."""


def fall_back(
    layers: Sequence[str],
    loss: Loss,
    limit: float,
    report: Report = silent,
    task: str = "fallback",
    *,
    alone: Alone | None = None,
) -> Fallback:
    """Keep the fewest layers in the higher precision with which the loss stays within a limit.

    If all layers together lose little enough, that is the only measurement. Else each is measured
    alone, and by bisection the fewest of the worst are kept. Losses do not add up exactly, so
    another choice might keep fewer; the one returned was measured by `loss`, and so was the one
    that keeps one layer less. If even the higher precision alone loses too much, all layers are
    kept.

    Args:
        layers: names of the layers that may compute in the lower precision, each once.
        loss: measures a choice, in dB; it is asked for each choice once.
        limit: the most that may be lost, in dB.
        report: told before every measurement.
        task: what the reports call it.
        alone: measures single layers to rank them; nothing else is decided by it. `loss` where it
            is left out.

    Raises:
        SlsError: a loss is not finite.
    """
    measure = _Measure(layers, loss, report, task)
    everything = measure.choice(layers)
    if everything <= limit:
        return Fallback((), everything, everything, {})
    single = {layer: measure.layer(layer, alone) for layer in layers}
    worst = sorted(layers, key=lambda layer: -single[layer])
    # So many of the worst fail, so many hold.
    fails, holds = 0, len(worst)
    kept_loss = measure.choice([])
    while kept_loss <= limit and holds - fails > 1:
        middle = (fails + holds) // 2
        now = measure.choice(worst[middle:])
        if now <= limit:
            holds, kept_loss = middle, now
        else:
            fails = middle
    return Fallback(tuple(worst[:holds]), kept_loss, everything, single)


class _Measure:
    """Measures each choice once and reports how far it is."""

    def __init__(self, layers: Sequence[str], loss: Loss, report: Report, task: str) -> None:
        self._loss, self._report, self._task = loss, report, task
        self._known: dict[frozenset[str], float] = {}
        self._done = 0
        count = len(layers)
        self._total = 2 + count + max(count - 1, 0).bit_length()

    def choice(self, lowered: Sequence[str]) -> float:
        """Loss in dB when exactly these layers are lowered."""
        choice = frozenset(lowered)
        if choice not in self._known:
            self._known[choice] = self._finite(lambda: self._loss(choice), choice)
        return self._known[choice]

    def layer(self, name: str, alone: Alone | None) -> float:
        """What a layer costs alone, in dB."""
        if alone is None:
            return self.choice([name])
        return self._finite(lambda: alone(name), frozenset([name]))

    def _finite(self, measure: Callable[[], float], choice: frozenset[str]) -> float:
        self._report(Progress(self._task, self._done, self._total))
        self._done += 1
        found = float(measure())
        if not math.isfinite(found):
            where = ", ".join(sorted(choice)) if len(choice) < 3 else f"{len(choice)} layers"
            what = f"lose {found:g} dB in the lower precision, which is no measurement"
            fix = "The network overflows on these pictures: export it in fp32 only."
            raise SlsError(what, where or "all layers in the higher precision", fix)
        return found
