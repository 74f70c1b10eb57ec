"""Weights drawn anew, so that what the pretrained ones were worth can be seen, or done without (T4).

Which layers are drawn anew is chosen as what trains is: by prefixes, as
:meth:`~stages.network.graph.cuts.CutGraph.boundary` gives them. Networks that are random from the start are made in
`backbones`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from cache.errors import UsageError
from stages.network.module_paths import has_prefix, require_known
from stages.runtime.seeding import seed_from

Scheme = Literal["kaiming", "xavier"]

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""All that torch has; its own base class of them is not public."""

_Draw = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]
"""A shape and where random numbers come from -> numbers, float64."""

_STATISTICS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
_PROJECTIONS = re.compile(r"(in|q|k|v)_proj_weight")
_BIASES = re.compile(r"in_proj_bias|[qkv]_bias")
_LAYER_SCALES = re.compile(r"gamma(_?\w+)?|layer_scale")
_TOKENS = re.compile(r"(\w+_)?token_?\d*")
_POSITIONS = re.compile(
    r"(\w+_)?pos(_embed\w*|_emb|_[hw])?|position_embedding_table|relative_position_bias_table|attention_biases|"
    r"(height|width)_rel"
)
_TABLE_DEVIATION = 0.02

# Layer scales begin at what their module was made with; where it does not say so, at what ConvNeXt's begin at (Liu et
# al. 2022).
_LAYER_SCALE = 1e-6

# The cosine attention of Swin Transformer V2 begins with similarities times 10 (Liu et al. 2022), kept as a logarithm.
_LOGIT_SCALE = math.log(10)


def reinit_parameters(
    module: nn.Module,
    prefixes: Collection[str],
    scheme: Scheme = "kaiming",
    seed: int = 0,
    network: nn.Module | None = None,
) -> tuple[str, ...]:
    """Draw every parameter below the prefixes anew, and forget the statistics there; everything else stays as it is.

    ============================================  ====================================================================
    convolutions, linear layers, and the          ``kaiming``: normal with variance 2 / fan-out (He et al. 2015, eq.
    projections of attention                      14); ``xavier``: uniform with variance 2 / (fan-in + fan-out) (Glorot
                                                  & Bengio 2010, eq. 16)
    biases                                        0
    normalisation of every kind                   weight 1, bias 0, running mean 0, running variance 1
    tables of positions, class and other tokens   truncated normal with standard deviation 0.02, as ViT's authors do
    layer scale                                   the value its module was made with, else 1e-6
    ============================================  ====================================================================

    Numbers come from a generator of its own for each parameter, made of `seed` and the parameter's name: the random
    state of the program stays as it is, and a layer gets the same weights on every machine, whatever else is drawn.

    Parameters
    ----------
    module
        The network, or a section of one.
    prefixes
        Names of modules or single parameters, such as the ``trainable`` of a boundary.
    scheme
        How the weights of convolutions and linear layers are drawn.
    seed
        Another one gives other weights.
    network
        That `module` is a section of. A layer that was traced through has left its tensors there and not its kind.

    Returns
    -------
    tuple of str
        Names of the parameters and statistics that were set.

    Raises
    ------
    UsageError
        If a prefix names nothing in the network, or stands for a parameter of a kind that is not known. Then nothing
        has been changed.
    """
    require_known(module, prefixes)
    draws: dict[str, tuple[torch.Tensor, _Draw]] = {}
    for path, layer in module.named_modules():
        for name, tensor in _own_state(layer).items():
            full = f"{path}.{name}" if path else name
            if has_prefix(full, prefixes):
                kind = network.get_submodule(path) if network is not None and type(layer) is nn.Module else layer
                draws[full] = (tensor, _draw(kind, name, full, scheme))
    with torch.no_grad():
        for full, (tensor, draw) in draws.items():
            # rounded here: Apple's GPU has no float64
            tensor.copy_(draw((*tensor.shape,), _generator(seed, full)).to(tensor.dtype))
    return tuple(draws)


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from(seed, name, bits=60))


def _own_state(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Return a layer's own parameters, and its statistics; what else is in buffers was never learnt."""
    state: dict[str, torch.Tensor] = dict(layer.named_parameters(recurse=False))
    learnt = (*_STATISTICS, "weight", "bias") if _is_normalization(layer) else ()
    state.update((name, buffer) for name, buffer in layer.named_buffers(recurse=False) if name in learnt)
    return state


def _draw(layer: nn.Module, name: str, full: str, scheme: Scheme) -> _Draw:
    """Return how a parameter or statistic of a layer is drawn."""
    if isinstance(layer, _Convolution | nn.Linear) and name == "weight":
        return _weights(scheme, *_fans(layer))
    if isinstance(layer, nn.MultiheadAttention) and _PROJECTIONS.fullmatch(name):
        # Queries, keys and values each are a linear layer, also where they lie in one matrix.
        inputs = getattr(layer, name).shape[1]
        return _weights(scheme, inputs, layer.embed_dim)
    value = _initial_value(layer, name)
    if value is not None:
        return lambda shape, _: torch.full(shape, value, dtype=torch.float64)
    if _TOKENS.fullmatch(name) or _POSITIONS.fullmatch(name):
        return _table
    raise UsageError(
        f"{full!r} cannot be re-initialised: how a {type(layer).__name__} begins with its {name!r} is not known here. "
        "Name layers without it."
    )


def _initial_value(layer: nn.Module, name: str) -> float | None:
    """Return what a parameter or statistic begins at, where that is one number."""
    if isinstance(layer, _Convolution | nn.Linear):
        return {"bias": 0.0, "gain": 1.0}.get(name)
    if _is_normalization(layer):
        return {**_STATISTICS, "weight": 1.0, "bias": 0.0}.get(name)
    if _is_grn(layer) or _BIASES.fullmatch(name):
        return 0.0
    if _LAYER_SCALES.fullmatch(name):
        layer_scale: float = getattr(layer, "init_values", _LAYER_SCALE)
        return layer_scale
    return _LOGIT_SCALE if name == "logit_scale" else None


def _is_normalization(layer: nn.Module) -> bool:
    """Say whether a layer normalises: timm has dozens of kinds, which have the word in the name of their class."""
    if _is_grn(layer):
        return False
    return isinstance(layer, FrozenBatchNorm2d) or any("Norm" in kind.__name__ for kind in type(layer).__mro__)


def _is_grn(layer: nn.Module) -> bool:
    """Say whether a layer is ConvNeXt V2's global response normalisation, which begins as the identity: at 0."""
    return type(layer).__name__ == "GlobalResponseNorm"


def _fans(layer: _Convolution | nn.Linear) -> tuple[int, int]:
    """Return how many inputs reach an output, and how many outputs an input reaches.

    ``nn.init`` reckons with the shape of the weights alone, which is wrong by the number of groups (for a depthwise
    convolution, by all channels), and has the two exchanged for transposed convolutions.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    kernel_positions = math.prod(layer.kernel_size)
    return layer.in_channels // layer.groups * kernel_positions, layer.out_channels // layer.groups * kernel_positions


def _weights(scheme: Scheme, fan_in: int, fan_out: int) -> _Draw:
    deviation = math.sqrt(2 / fan_out)
    bound = math.sqrt(6 / (fan_in + fan_out))

    def draw(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        # In float64, and rounded later: how torch makes normal numbers in float32 depends on the processor.
        numbers = torch.empty(shape, dtype=torch.float64)
        if scheme == "kaiming":
            return numbers.normal_(0, deviation, generator=generator)
        return numbers.uniform_(-bound, bound, generator=generator)

    return draw


def _table(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    numbers: Any = torch.empty(shape, dtype=torch.float64)
    table: torch.Tensor = nn.init.trunc_normal_(numbers, std=_TABLE_DEVIATION, generator=generator)
    return table
