"""The network as a search takes it: traced, its channels filled up, its layers listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sls_deploy.config import Config
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.align import align, alignment_facts
from sls_deploy.search.layers import Choice, Layer, find_layers
from sls_deploy.search.trace import Trace, trace
from sls_deploy.sparsity.pattern import Pattern


@dataclass(frozen=True)
class Prepared:
    """What a search starts from."""

    model: RestorationModel
    """The dense network; larger than the one given where channels were filled up."""
    graph: Trace | None
    """Its operations; None if they cannot be traced."""
    layers: list[Layer]
    """All its layers."""
    config: Config
    """The settings, with the method that is left where it cannot be traced."""
    alignment: dict[str, Any] | None
    """What filling up costs and gains; None if nothing was filled up."""
    notes: list[str]
    """What the user should know."""

    @property
    def prunable(self) -> list[Layer]:
        """The layers that may be pruned."""
        return [layer for layer in self.layers if layer.prunable]


def prepare(model: RestorationModel, config: Config) -> Prepared:
    """Trace a network, list its layers and fill up channels, as far as the settings say so.

    Raises:
        SlsError: it cannot be traced, and the method needs that.
    """
    search = config.search
    pattern, choice = Pattern.parse(search.pattern), Choice(search.keep, search.prune)
    graph, config, notes = _traced(model, config)
    layers = find_layers(model, pattern, graph or (search.patch,) * 2, choice)
    if graph is None or not search.align:
        return Prepared(model, graph, layers, config, None, notes)
    prunable = [layer for layer in layers if layer.prunable]
    aligned, rejected = align(graph, model, prunable, search.align)
    if rejected:
        notes.append(
            f"{rejected} sets of channels could not be filled up to a multiple of {search.align}: "
            "layers that read them stay without sparse tensor cores"
        )
    if aligned is model:
        return Prepared(model, graph, layers, config, None, notes)
    graph = trace(aligned, search.patch)
    larger = find_layers(aligned, pattern, graph, choice)
    return Prepared(aligned, graph, larger, config, alignment_facts(layers, larger), notes)


def _traced(model: RestorationModel, config: Config) -> tuple[Trace | None, Config, list[str]]:
    """The network's operations; without them what needs none, and what that costs."""
    try:
        return trace(model, config.search.patch), config, []
    except SlsError as error:
        if config.search.method == "reconstruct":
            raise
        lost = (
            f"{error.where} {error.what}: its layers are found by hooks on modules and searched by "
            "--method sls; allocated ratios, reconstruction, narrowing, refits, filling up and "
            "reordering of channels are left out"
        )
        search = config.search.model_copy(update={"method": "sls"})
        return None, config.model_copy(update={"search": search}), [lost]
