"""Stochastic depth: how often the residual branches of a network are left out in training (Huang et al. 2016)."""

from __future__ import annotations

from timm.layers.drop import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from cache.errors import UsageError


def set_stochastic_depth(section: nn.Module, rate: float) -> int:
    """Let the residual branches of a section be left out, the first seldom and the last in a share `rate` of cases.

    Rates rise evenly from branch to branch (Huang et al. 2016, section 3: linear decay). Nothing changes in evaluation
    mode.

    Parameters
    ----------
    section
        Of a network with stochastic depth, whether it was built with a rate or with none; changed in place.
    rate
        In [0, 1).

    Returns
    -------
    int
        How many branches there are.

    Raises
    ------
    UsageError
        If the section has none.
    """
    drop_paths = [name for name, module in section.named_modules() if _is_drop_path(name, module)]
    if not drop_paths:
        raise UsageError(
            f"`drop_path` {rate:g}: what trains of this network has no branches with stochastic depth; leave it out, "
            "let blocks that have them train (`unfreeze`), or choose a network that has them (EfficientNet, ConvNeXt, "
            "ViTs of timm, Swin, MaxViT)"
        )
    for number, name in enumerate(drop_paths, start=1):
        module = section.get_submodule(name)
        drop_rate = rate * number / len(drop_paths)
        if isinstance(module, StochasticDepth):
            module.p = drop_rate
        else:
            section.set_submodule(name, DropPath(drop_rate).train(section.training))
    return len(drop_paths)


def _is_drop_path(name: str, module: nn.Module) -> bool:
    """Say whether a module is where a branch is left out; timm builds an identity where the rate is 0."""
    is_named_so = name.rpartition(".")[2].startswith("drop_path")
    return isinstance(module, StochasticDepth | DropPath) or (is_named_so and isinstance(module, nn.Identity))
