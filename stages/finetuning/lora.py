"""Low-rank adapters in place of the weights they adapt (LoRA), and a plain network again once they have trained.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, equation 3: a matrix W stays as
it is, and what trains is B A beside it, of a low rank. B begins as zeros, so that the network answers before the first
step what it answered without. What is factor alpha / r there is 1 here: the rate does as much. All linear layers of the
blocks are adapted, those of the MLP too, by the library peft; a network that has been trained is merged, W + B A, so
that whatever is saved, exported or gone on from knows nothing of adapters.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cache.errors import UsageError, listed
from stages.network.module_paths import has_prefix
from stages.runtime.seeding import fixed_seed

_ADAPTERS = (".lora_A.", ".lora_B.")


def add_lora(top: nn.Module, trainable: Collection[str], rank: int, seed: int) -> tuple[str, ...]:
    """Put adapters beside the matrices of what trains, freeze the rest, and return the names of what trains then.

    Parameters
    ----------
    top : nn.Module
        The network from where training begins; changed in place.
    trainable : collection of str
        Prefixes of what would train without adapters.
    rank : int
        Of each adapter.
    seed : int
        A is drawn from it.

    Raises
    ------
    UsageError
        If peft is not installed, or nothing of what trains is a linear layer.
    """
    peft = _peft()
    _open_attention(top, trainable)
    layers = [
        name for name, layer in top.named_modules() if isinstance(layer, nn.Linear) and has_prefix(name, trainable)
    ]
    if not layers:
        raise UsageError(
            f"`lora` {rank} adapts linear layers, as vision transformers have them, and in what `unfreeze` names there "
            f"are none ({listed([*trainable][:3])}): leave it out, or take a ViT as the `backbone`"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    with fixed_seed(seed):
        peft.inject_adapter_in_model(config, top)
    return tuple(name for name, _ in top.named_parameters() if any(part in f".{name}." for part in _ADAPTERS))


def merge_lora(top: nn.Module) -> None:
    """Make a network with adapters the plain one that computes the same, in place."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [*top.named_modules()]:
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)  # of the class that adapts a linear layer
            _replace(top, name, layer.get_base_layer())
    for name, layer in [*top.named_modules()]:
        if isinstance(layer, _OpenedAttention):
            _replace(top, name, layer.closed)


class _OpenedAttention(nn.Module):
    """Self-attention of torch whose packed matrix is a linear layer, so that it can have an adapter.

    peft adapts that matrix by adding to it before and taking off after each pass, which does not leave it bit for bit
    as it was. The parameters are those of the attention itself.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._closed = (attention,)  # no submodule: its parameters have one name
        assert attention.in_proj_weight is not None
        width = attention.embed_dim
        self.in_proj = nn.Linear(width, 3 * width, bias=attention.in_proj_bias is not None, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    @property
    def closed(self) -> nn.MultiheadAttention:
        """The attention as it was, with what has become of its parameters."""
        return self._closed[0]

    @staticmethod
    def takes(attention: nn.Module) -> bool:
        """Return whether it is an attention that can be opened."""
        return (
            isinstance(attention, nn.MultiheadAttention)
            and attention.in_proj_weight is not None
            and attention.bias_k is None
            and not attention.add_zero_attn
            and attention.batch_first
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """Attend from each token, float [b, n, C], to all: [b, n, C], and no weights."""
        if key is not query or value is not query or need_weights:
            raise UsageError("`lora` adapts attention of tokens to themselves, and here they attend to others")
        shape = (*query.shape[:2], 3, self.closed.num_heads, self.closed.head_dim)
        queries, keys, values = self.in_proj(query).reshape(shape).permute(2, 0, 3, 1, 4)
        dropout = self.closed.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def _open_attention(top: nn.Module, trainable: Collection[str]) -> None:
    for name, layer in [*top.named_modules()]:
        if _OpenedAttention.takes(layer) and has_prefix(name, trainable):
            assert isinstance(layer, nn.MultiheadAttention)
            _replace(top, name, _OpenedAttention(layer).train(layer.training))


def _replace(top: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(top.get_submodule(parent), attribute, layer)


def _peft() -> Any:
    try:
        import peft  # slow to import, and needed by this option alone
    except ImportError as error:
        raise UsageError("`lora` needs the package peft: pip install 'peft>=0.15'") from error
    return peft
