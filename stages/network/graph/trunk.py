"""The trunk as it is run: folded, frozen, in one arithmetic, tapped at several cuts in one pass.

Reading images, normalising them and storing the rows are not done here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import fx, nn

from cache.errors import UsageError
from stages.config.features import PrecisionChoice
from stages.network.freezing import lock_eval_mode
from stages.network.graph.bn_folding import fold_batchnorm
from stages.network.graph.cuts import Cut, CutGraph
from stages.network.graph.fused_convolutions import can_fuse, fuse_convolutions
from stages.network.graph.pooling import Pool
from stages.network.memory_format import to_channels_last
from stages.runtime.device import described, free_memory, supports_bf16
from stages.runtime.float32 import float32_products
from stages.runtime.products import take_quick_products

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

ARITHMETIC: dict[Precision, str] = {"fp32": "fp32", "tf32": "tf32", "bf16": "bf16-folded", "fp16": "fp16-autocast"}
"""What is computed for each precision, on every network and device; features of two of them are never mixed."""


def precision_of(arithmetic: str) -> Precision | None:
    """Return the precision that a spec's arithmetic comes of, whoever computes it; None of one that is not known."""
    return next((precision for precision in ARITHMETIC if arithmetic.split("-")[0] == precision), None)


# Workspaces of kernels and freed blocks that do not fit again come on top of the activations: over ten networks a CPU
# process grew by 1.0 to 3.3 times the estimate. So more than half of the free memory is left to decoding and to others.
_SHARE_OF_FREE_MEMORY = 1 / 8


class InPrecision(nn.Module, ABC):
    """What computes in a precision, which is set around what torch has compiled, and not by it."""

    @abstractmethod
    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes."""

    def __call__(self, *inputs: Any) -> Any:
        """Compute in the precision."""
        with nullcontext() if torch.compiler.is_compiling() else self.computing():
            return super().__call__(*inputs)


class FrozenModule(InPrecision):
    """What all trunks are: never trained, in one precision, on one device, with its channels last.

    Attributes
    ----------
    precision : str
    arithmetic : str
        What is really computed.
    """

    precision: Precision
    arithmetic: str

    def settle(self, precision: Precision, arithmetic: str, device: torch.device) -> None:
        """Take the precision and the device, once all parts are there."""
        self.precision, self.arithmetic = precision, arithmetic
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.requires_grad_(False)
        self.to(device, self._dtype)
        to_channels_last(self)
        if precision == "fp32" and device.type == "cpu":
            take_quick_products(self)
        lock_eval_mode(self)

    def received(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as the network takes them."""
        return images.to(self._device, self._dtype, memory_format=torch.channels_last)

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes."""
        return computing(self.precision, self._device)


class FrozenTrunk(FrozenModule):
    """The frozen part of a network, with its poolings: normalised images -> one row per image for every tap.

    It runs the graph once, up to the deepest cut. It has its own weights: BatchNorm is folded into the convolutions
    (see :func:`~stages.network.graph.bn_folding.fold_batchnorm`), and the network given stays as it is. On a CPU
    activations are computed with the convolutions (:mod:`~stages.network.graph.fused_convolutions`). It stays in
    evaluation mode, whatever ``train()`` is called on what holds it, and none of its parameters requires gradients.

    The precisions:

    ``fp32``
        float32 throughout. On NVIDIA GPUs torch lets convolutions (cuDNN) round their factors to TF32's 10 bits unless
        told otherwise, and matrix products not; told so, it rounds on a CPU, too. Here none may, so that a feature is
        the same to within float32 rounding on every device; for speed there are the others, which use the same tensor
        cores.
    ``tf32``
        float32 with factors rounded to 10 bits, on NVIDIA's GPUs from Ampere on: convolutions and matrix products.
    ``bf16``
        Weights, inputs and activations in bfloat16; folded in float64 before, pooled in float32 after. All layers of
        all networks tried compute in it, so there is no second way.
    ``fp16``
        Weights in float32, and ``torch.autocast`` to float16, which keeps in float32 what needs its range.

    Parameters
    ----------
    graph
        The network, in evaluation mode.
    taps
        Cuts, and how the output of each is pooled. A cut may stand in several.
    precision
        ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
    device
        Where it computes.

    Attributes
    ----------
    precision : str
        As given.
    arithmetic : str
        What is really computed: :data:`ARITHMETIC` of the precision.
    folded : int
        How many BatchNorms were folded.

    Raises
    ------
    UsageError
        If, in reduced precision, one tap lies between a convolution and its BatchNorm and others above: the two would
        be folded without that tap and not with it, so the other features would depend on what is extracted with them.
    """

    def __init__(
        self, graph: CutGraph, taps: Sequence[tuple[Cut, Pool]], precision: Precision, device: torch.device
    ) -> None:
        super().__init__()
        cuts = sorted({cut for cut, _ in taps}, key=graph.cuts.index)
        if precision != "fp32":
            _refuse_cuts_that_prevent_folding(graph, cuts)
        folded = [_own_folded_section(graph, start, end) for start, end in pairwise([None, *cuts])]
        if can_fuse(precision, device):
            folded = [(fuse_convolutions(section), count) for section, count in folded]
        self.sections = nn.ModuleList([section for section, _ in folded])
        self.pools = nn.ModuleList([pool for _, pool in taps])
        self.folded = sum(count for _, count in folded)
        self._depths = [cuts.index(cut) for cut, _ in taps]
        self.settle(precision, ARITHMETIC[precision], device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the pooled rows of each tap, float32 [b, *pool.shape], of normalised images, float32 [b, 3, S, S]."""
        x = self.received(images)
        rows: dict[int, torch.Tensor] = {}
        for depth, section in enumerate(self.sections):
            x = section(x)
            taps = [tap for tap, tapped in enumerate(self._depths) if tapped == depth]
            rows.update({tap: self.pools[tap](x.float()) for tap in taps})
        return tuple(rows[tap] for tap in range(len(self.pools)))


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a network computes in this precision."""
    if precision == "fp16":
        return torch.autocast(device.type, torch.float16)
    if precision in ("fp32", "tf32"):
        return float32_products(tf32=precision == "tf32")
    return nullcontext()


def precision_on(choice: PrecisionChoice | None, device: torch.device) -> Precision:
    """Return the precision that an option means on a device.

    Parameters
    ----------
    choice
        None: ``auto`` on NVIDIA's and AMD's GPUs, where float32 is several times slower, and ``fp32`` elsewhere.

    Raises
    ------
    UsageError
        If it is named and the device does not compute in it.
    """
    if choice is None:
        return auto_precision(device) if device.type == "cuda" else "fp32"
    if choice == "auto":
        return auto_precision(device)
    if choice == "tf32" and (device.type != "cuda" or not supports_bf16(device)):
        raise UsageError(
            f"`precision` tf32 is an arithmetic of NVIDIA's GPUs from Ampere on, and the `device` is "
            f"{described(device)}: use fp32, or auto"
        )
    if choice == "bf16" and device.type == "cuda" and not supports_bf16(device):
        raise UsageError(
            f"`precision` bf16: {described(device)} is older than Ampere and has no such arithmetic: use fp16, or auto"
        )
    return choice


def auto_precision(device: torch.device) -> Precision:
    """Return the precision that ``auto`` means: the quickest that the device computes by itself.

    bf16 where the hardware multiplies it, see :func:`~stages.runtime.device.supports_bf16`; else fp16 on NVIDIA's and
    AMD's GPUs, and fp32 on CPUs and on Apple's GPUs, where no gain of the others has been measured, and which is exact.
    """
    if supports_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def auto_batch_size(
    graph: CutGraph,
    cut: Cut,
    precision: Precision,
    device: torch.device,
    threads: int = 1,
    free_bytes: int | None = None,
) -> int:
    """Return how many images to run through the trunk at a time: a power of two, by the memory that is free.

    At most 16 on a CPU, where larger batches are no quicker, and 256 elsewhere. In full batches of a power of two a
    feature does not depend, in any bit, on the other images nor on its place among them (tested on CPUs). In batches
    of an odd size it can: transformers in bf16 on two threads were seen to differ in the last bits.

    Parameters
    ----------
    graph, cut
        The network, and the deepest cut.
    precision, device
        As of the trunk.
    threads
        How many threads run the trunk at once, each on a batch of its own.
    free_bytes
        Memory to reckon with; what the device has free if not given.
    """
    available = free_memory(device) if free_bytes is None else free_bytes
    bytes_per_image = graph.peak_activation_bytes(cut) // (2 if precision == "bf16" else 1)
    max_images = 16 if device.type == "cpu" else 256
    fitting = min(max_images, max(1, int(available * _SHARE_OF_FREE_MEMORY) // (bytes_per_image * threads)))
    return 1 << (fitting.bit_length() - 1)


def _own_folded_section(graph: CutGraph, start: Cut | None, end: Cut | None) -> tuple[fx.GraphModule, int]:
    return fold_batchnorm(copy.deepcopy(graph.evaluation_section(start, end)).eval())


def _refuse_cuts_that_prevent_folding(graph: CutGraph, cuts: Sequence[Cut]) -> None:
    def foldable(start: Cut | None, end: Cut) -> int:
        return fold_batchnorm(graph.evaluation_section(start, end))[1]

    for cut, above in pairwise(cuts):
        if foldable(None, cut) + foldable(cut, above) < foldable(None, above):
            raise UsageError(
                f"The cut {cut.name!r} lies between a convolution and its BatchNorm. In reduced precision the features "
                f"above it, such as those of {above.name!r}, would depend on whether it is extracted with them. "
                "Extract that cut alone, or use `precision` fp32."
            )
