"""Test-time augmentation: several fixed renderings of one image, whose predicted probabilities are averaged.

Nothing is random here. The single rendering that everything else is tested on is in ``preprocessing``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from stages.config.augment_grammar import TTA
from stages.data.images.preprocessing import Preprocessing, stack_pixels

_COUNT: dict[TTA, int] = {"none": 1, "flip": 2, "crops": 10}


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The renderings that an image is tested on; the first is always the evaluation view.

    Attributes
    ----------
    preprocessing : Preprocessing
    kind : str
        ``none``: the evaluation view alone. ``flip``: it and its mirror image. ``crops``: the centre and the four
        corners of the resized image, then these mirrored (Krizhevsky et al. 2012, section 4.1; He et al. 2016,
        section 3.4). Corners differ from the centre as far as `preprocessing` resizes to more than it keeps. Where the
        evaluation view is all of an image, it stands in place of the centre, and the corners are those of the whole
        at the larger size.
    """

    preprocessing: Preprocessing
    kind: TTA

    @property
    def count(self) -> int:
        """How many renderings there are of an image."""
        return _COUNT[self.kind]

    @property
    def mirrored(self) -> tuple[bool, ...] | None:
        """How the evaluation view comes, as it is or as its mirror image, where nothing else does; else None."""
        return {"none": (False,), "flip": (False, True)}.get(self.kind)

    def __call__(self, image: Tensor) -> Tensor:
        """Return the renderings, uint8 [count, 3, S, S], of a photograph, uint8 [3, H, W].

        Raises
        ------
        UnreadableImageError
            As `Preprocessing.render`.
        """
        views = self._crops(image) if self.kind == "crops" else [self.preprocessing.render(image)]
        if self.kind != "none":
            views += [F.horizontal_flip(view) for view in views]
        return stack_pixels(views)

    def average(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the probabilities over each image's renderings: [n * count, classes] -> [n, classes]."""
        image_means: NDArray[np.float32] = probabilities.reshape(-1, self.count, probabilities.shape[1]).mean(axis=1)
        return image_means

    def _crops(self, image: Tensor) -> list[Tensor]:
        rows, columns = self.preprocessing.shape
        if self.preprocessing.crop_mode != "center":
            larger = self.preprocessing.whole(image, self.preprocessing.larger_shape)
            *corners, _ = F.five_crop(larger, [rows, columns])
            return [self.preprocessing.render(image), *corners]
        resized = self.preprocessing.resized(image)
        height, width = resized.shape[-2:]
        padded = F.center_crop(resized, [max(height, rows), max(width, columns)])  # as the evaluation view is
        *corners, center = F.five_crop(padded, [rows, columns])
        return [center, *corners]
