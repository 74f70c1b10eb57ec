"""Images of a batch mixed with each other, their targets in the same shares: mixup and cutmix.

Works on what a network, or its upper part, is given: normalised images or feature maps. Renderings of a single image
are in ``augmentation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchvision.transforms import v2

from cache.errors import UsageError
from stages.data.augment.thread_rng import ThreadGenerator
from stages.runtime.seeding import seed_from


@dataclass(frozen=True)
class MixupCutmix:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019); where both are set, a batch gets one of them by lot.

    Every row is mixed with the one before it, so the batch has to be shuffled. The share that a row keeps is drawn
    from Beta(alpha, alpha), once for the batch. Mixup adds the numbers of the two in their shares; cutmix puts a
    rectangle of the other into the row, which then keeps the share of its places that the rectangle leaves. Targets are
    blended in these shares whatever they say: classes, labels, or numbers, which are taken for linear in what is mixed.

    Attributes
    ----------
    mixup : float
        Alpha of mixup, 0 for none of it; the paper has 0.1 to 0.4 for ImageNet. The larger, the more is mixed.
    cutmix : float
        Alpha of cutmix, 0 for none of it; the paper has 1.
    layout : str
        What a row is: ``nchw`` for an image or a map with its channels first, ``nhwc``, ``tokens``, ``vector``.

    Raises
    ------
    UsageError
        If an alpha is negative, both are 0, or cutmix has nothing to cut a rectangle out of.
    """

    mixup: float
    cutmix: float
    layout: str = "nchw"

    def __post_init__(self) -> None:
        for option, alpha in (("`mixup`", self.mixup), ("`cutmix`", self.cutmix)):
            if not 0 <= alpha < float("inf"):
                raise UsageError(f"{option} {alpha:g} must be at least 0: it is the alpha of a Beta distribution")
        if not self.mixup and not self.cutmix:
            raise UsageError("`mixup` and `cutmix` are both 0, so nothing would be mixed")
        self._require_maps(self.layout in ("nchw", "nhwc"))

    def __call__(self, inputs: Tensor, targets: Tensor, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return a batch mixed, and its targets, blended in the same shares.

        The same seed, epoch and step mix in the same way, on any device, whatever else draws random numbers.

        Parameters
        ----------
        inputs : Tensor
            float [b, ...]; left as it is. What is returned has its type, shape and memory format.
        targets : Tensor
            float32 [b, k], as a task's `soft_target` gives them; nan, what is not known, is so in each blend with it.

        Raises
        ------
        UsageError
            If there is cutmix, and a row is no image and no map.
        """
        self._require_maps(inputs.ndim == 4)
        # torchvision mixes [b, channels, height, width]; to mixup it is all the same what a number belongs to
        if inputs.ndim != 4:
            maps = inputs.flatten(1)[:, :, None, None]
        else:
            maps = inputs.permute(0, 3, 1, 2) if self.layout == "nhwc" else inputs
        drawn_from = torch.Generator().manual_seed(seed_from("mix", seed, epoch, step, bits=32))
        with ThreadGenerator(drawn_from):
            kind = self._kinds[int(torch.randint(len(self._kinds), (1,)))]
            mixed, blended = kind(maps, targets)
        if self.layout == "nhwc":
            mixed = mixed.permute(0, 2, 3, 1)
        return mixed.reshape(inputs.shape), blended

    @cached_property
    def _kinds(self) -> list[v2.Transform]:
        kinds = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
        return [kind(alpha=float(alpha)) for kind, alpha in kinds if alpha]

    def _require_maps(self, maps: bool) -> None:
        if self.cutmix and not maps:
            raise UsageError(
                f"`cutmix` {self.cutmix:g} cuts rectangles out of images or feature maps, and here training begins "
                "above the last map; use `mixup`, or unfreeze a lower layer"
            )
