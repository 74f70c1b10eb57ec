"""Heads: what is trained on cached features, as torch modules that are saved and loaded without pickle.

Models that are fitted in closed form become a `LinearHead`, a `KernelHead` or a `KNNHead`. Choosing and fitting a head
is stage 2's work.
"""

from stages.network.heads.base import Head
from stages.network.heads.building import KNOWN, build_head
from stages.network.heads.custom import CustomHead
from stages.network.heads.maps import AttentionHead, ConcatHead
from stages.network.heads.saving import load_head, save_head
from stages.network.heads.stored import KernelHead, KNNHead
from stages.network.heads.top import TopHead
from stages.network.heads.vectors import CosineHead, LinearHead, MLPHead

__all__ = [
    "KNOWN",
    "AttentionHead",
    "ConcatHead",
    "CosineHead",
    "CustomHead",
    "Head",
    "KNNHead",
    "KernelHead",
    "LinearHead",
    "MLPHead",
    "TopHead",
    "build_head",
    "load_head",
    "save_head",
]
