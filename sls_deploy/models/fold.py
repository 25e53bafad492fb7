"""Weight normalisation folded into plain weights, which is all that pruning and export know."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm


def is_reparametrised(network: nn.Module) -> bool:
    """Whether a weight is computed from others, as weight and spectral normalisation do."""
    return any(
        parametrize.is_parametrized(module) or _hooks(module) for module in network.modules()
    )


def fold(network: nn.Module) -> None:
    """Put the weights that are computed in place of what they are computed from."""
    network.eval()  # spectral normalisation takes another step in training
    for module in network.modules():
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)
        for hook in _hooks(module):
            remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
            remove(module, hook.name)
            _forget_loading(module)


def _forget_loading(module: nn.Module) -> None:
    """Take off what makes loading ask for the old weights, which PyTorch 2.13 leaves behind."""
    hooks = module._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _hooks(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    """Normalisations in the form of hooks, as older code has them."""
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]
