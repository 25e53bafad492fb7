"""A restoration network whose prunable weights are masked by learnable ratios."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sls_deploy.models.model import RestorationModel
from sls_deploy.search.cost import MacsCost, unit_costs
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.masks import MAX_SCORE, keep_table, look_up, masked_weights
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_weights


class SparseNetwork(nn.Module):
    """The dense network with one learnable priority score for each unit of each layer.

    While the scores learn, every step looks up which units they keep. After `freeze` the
    numbers kept are fixed, and only re-ranking changes the masks.

    Args:
        model: the dense network; its weights are trained in place.
        layers: the prunable layers of `model.network`.
        pattern: what their units are.
        costs: cost of each unit, float64 of shape [layers, units]; their MACs if left out.
    """

    costs: Tensor

    def __init__(
        self,
        model: RestorationModel,
        layers: list[Layer],
        pattern: Pattern,
        costs: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.layers = layers
        self.pattern = pattern
        # In a list, where they are not registered a second time.
        self._pruned = [model.network.get_parameter(layer.parameter) for layer in layers]
        all_names = [
            (name, id(value))
            for name, value in model.network.named_parameters(remove_duplicate=False)
        ]
        self._names = {
            layer.parameter: [name for name, value in all_names if value == id(weight)]
            for layer, weight in zip(layers, self._pruned, strict=True)
        }
        """All names of each weight: a module may stand in several places."""
        self.scores = nn.Parameter(torch.ones(len(layers), pattern.units - 1))
        costs = unit_costs(MacsCost(), layers, pattern) if costs is None else costs
        self.register_buffer("costs", costs, persistent=False)
        self._frozen: Tensor | None = None
        self.rerank()

    @property
    def weights(self) -> list[Tensor]:
        """The dense weights of the prunable layers."""
        return list(self._pruned)

    @property
    def products(self) -> Tensor:
        """Cumulative products of the scores, shape [layers, units - 1]."""
        return self.scores.detach().cumprod(dim=1)

    @property
    def frozen(self) -> Tensor | None:
        """Units that each layer keeps for good, shape [layers]; None while the scores learn."""
        return self._frozen

    def rerank(self) -> None:
        """Rank the weights anew; done at the start of every epoch, also after the freeze."""
        self._units = [
            rank_weights(weight, self.pattern, layer.layout)
            for weight, layer in zip(self.weights, self.layers, strict=True)
        ]
        self._masked: tuple[Tensor, list[Tensor]] | None = None

    def freeze(self, counts: Tensor) -> None:
        """Keep the first `counts` units of each layer from now on.

        Scores that keep other units are set to ones that keep these, so that the next budget
        starts from what this one leaves.
        """
        wanted = self.prefix(counts)
        keeping = 0.5 ** (1 / (counts - 0.5)).to(self.scores.dtype)[:, None]
        differs = (keep_table(self.scores.detach()) != wanted).any(1, keepdim=True)
        self.scores.data.copy_(torch.where(differs, keeping, self.scores.detach()))
        self._frozen = counts
        self.scores.requires_grad_(False)

    def thaw(self) -> None:
        """Let the scores learn again, towards the next budget."""
        self._frozen = None
        self.scores.requires_grad_(True)

    def clamp_scores(self) -> None:
        """Put the scores back into their range after an optimiser step."""
        self.scores.data.clamp_(0, MAX_SCORE)

    def table(self) -> Tensor:
        """Which units each layer keeps: 0 or 1 as float64, shape [layers, units]."""
        if self._frozen is None:
            return keep_table(self.scores)
        return self.prefix(self._frozen)

    def prefix(self, counts: Tensor) -> Tensor:
        """The table that keeps the first `counts` units of each layer."""
        return (torch.arange(self.pattern.units, device=counts.device) < counts[:, None]).double()

    def cost(self, table: Tensor) -> Tensor:
        """Cost of what `table` keeps, as a share of the prunable layers' dense cost."""
        return (table * self.costs).sum()

    def forward(self, pictures: Tensor, table: Tensor | None = None) -> Tensor:
        """Restore pictures, float NCHW in 0..1, with the masked weights.

        Args:
            pictures: degraded pictures.
            table: from `table()`, for a caller who also needs its cost.
        """
        effective = self.effective(self.table() if table is None else table)
        result: Tensor = functional_call(self.model, effective, (pictures,))
        return result

    def effective(self, table: Tensor) -> dict[str, Tensor]:
        """Masked weights of the prunable layers, by parameter name in `model`."""
        if self._masked is None or not torch.equal(self._masked[0], table):
            self._masked = table.detach().clone(), look_up(table, self._units)
        used = masked_weights(self.weights, table, self._units, self._masked[1])
        return {
            f"network.{layer.parameter}": weight
            for layer, weight in zip(self.layers, used, strict=True)
        }

    def sparse_state(self) -> dict[str, Tensor]:
        """State of the dense network with the pruned weights set to zero, by its own names."""
        state = {
            key: value.detach().clone() for key, value in self.model.network.state_dict().items()
        }
        with torch.no_grad():
            for layer, weight in zip(
                self.layers, self.effective(self.table()).values(), strict=True
            ):
                for name in self._names[layer.parameter]:
                    state[name] = weight.clone()
        return state
